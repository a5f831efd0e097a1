"""Building of packed rows: how many tokens a core makes in a second, and what the driver holds of a corpus of any size.

Synthetic units of 100 to 400 an utterance, each heard and spoken, and dialogues whose turns name utterances anywhere in
the table. A small corpus is built first and one ten times as large after it, in one process.
"""

import sys

# This folder holds a tokenize.py, which must not stand for the standard library's.
sys.path.pop(0)

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "platform"), str(Path(__file__).resolve().parents[2])]

import numpy as np
import pyarrow as pa
import ray

from cslm import cluster, contracts, storage
from cslm.cluster import ClusterSection
from cslm.data import pack, sources
from cslm.lm import model as lm_model
from cslm.lm.model import ModelSection
from tests.data.tables import WORDS

TASKS = ("asr", "tts", "answer")
NUM_UNITS, ROW_LENGTH, ROWS_A_FILE = 1000, 1024, 500


def write(root: Path, num_utterances: int) -> None:
    """Units and dialogues, one dialogue for every four utterances."""
    rng = np.random.default_rng(0)
    turn = {"language": "en", "text": "one two three"}
    for number, start in enumerate(range(0, num_utterances, ROWS_A_FILE)):
        ids = [f"u{place}" for place in range(start, min(start + ROWS_A_FILE, num_utterances))]
        lengths = rng.integers(100, 400, len(ids))
        units = [
            {
                **{"id": name, "language": "en", "split": "train", "text": " ".join(rng.choice(WORDS, 12))},
                "units": rng.integers(0, NUM_UNITS, length).astype(np.uint16),
                "durations": np.ones(length, np.uint16),
                **{"num_frames": int(length), "frame_rate_hz": 25.0, "duration_s": length / 25, "tokenizer": "t"},
                **{"source": name, "source_sha256": ""},
            }
            for name, length in zip(ids, lengths, strict=True)
        ]
        table = contracts.load("units").table(units).drop_columns(["language", "split"])
        storage.write_table(table, str(root / "units" / "language=en" / "split=train" / f"{number:05d}.parquet"))
        spoken = [[f"u{rng.integers(num_utterances)}" for _ in range(2)] for _ in range(len(ids) // 4)]
        dialogues = [
            {
                "id": f"d{number}-{place}",
                "turns": [{"role": "user", "audio": q, **turn}, {"role": "assistant", "audio": a, **turn}],
                "split": "train",
            }
            for place, (q, a) in enumerate(spoken)
        ]
        storage.write_table(
            contracts.load("dialogues").table(dialogues), str(root / "dialogues" / f"{number:05d}.parquet")
        )


def prepare_reader(folder: Path) -> None:
    """Tokenizer and vocabulary are all of a model that packing opens."""
    section = ModelSection(shape="micro", text_vocab_size=320)
    facts = {"num_units": NUM_UNITS, "unit_tokenizer": "t", "frame_rate_hz": 25.0}
    tokenizer, layout = lm_model.reader(str(folder), section, texts=lambda: WORDS * 3, **facts)
    tokenizer.save_pretrained(folder)
    layout.save(str(folder))


def main() -> None:
    """Run, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a corpus of 3 million tokens instead of 30")
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    options = parser.parse_args()
    large = 4_000 if options.quick else 40_000
    cluster.connect(ClusterSection(num_cpus=options.cpus))
    print(f"{'utterances':>12}{'tokens':>14}{'filled':>9}{'seconds':>9}{'tokens/s a core':>17}{'driver MiB':>12}")
    rates, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        prepare_reader(Path(folder) / "reader")
        for size in (large // 10, large):
            root = Path(folder) / str(size)
            write(root, size)
            section = sources.DataSection(
                units=str(root / "units"),
                dialogues=str(root / "dialogues"),
                row_length=ROW_LENGTH,
                chain={"form": "full"},
            )
            started_s = time.perf_counter()
            stats = pack.build(section, TASKS, str(Path(folder) / "reader"), str(root / "packed"), seed=0)
            wall_s = time.perf_counter() - started_s
            rates.append(stats["num_tokens"] / wall_s / options.cpus)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            print(
                f"{size:>12,}{stats['num_tokens']:>14,}{stats['efficiency']:>9.1%}{wall_s:>9.1f}"
                f"{rates[-1]:>17,.0f}{peaks[-1]:>12.0f}"
            )
    ray.shutdown()
    ratios = {"driver_memory_10_over_1": round(peaks[1] / peaks[0], 3), "tokens_per_s_a_core": round(rates[1])}
    machine = {"processor": platform.processor() or platform.machine(), "cpus": options.cpus}
    versions = {"ray": ray.__version__, "pyarrow": pa.__version__}
    print(json.dumps({"benchmark": "pack", "ratios": ratios, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()

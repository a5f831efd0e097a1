"""A corpus, the tokenize job started on it as users start it, and its tables, for tests that disturb the job."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from cslm import contracts, storage
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from tests.data import sounds

ROOT = Path(__file__).parents[2]


def write_corpus(root: Path, num_clips: int, num_broken: int) -> None:
    """Clips of 2 to 6 s in two languages, files that are no audio, their manifest, and a tokenizer fitted on some."""
    rows = []
    for seed in range(num_clips):
        sounds.write(root / f"{seed}.wav", seed, 2.0 + seed % 5)
        rows.append({"id": f"u{seed:03d}", "audio": f"{seed}.wav", "language": ("en", "es")[seed % 2]})
    for number in range(num_broken):
        (root / f"broken{number}.wav").write_bytes(b"no sound" * number)
        rows.append({"id": f"x{number}", "audio": f"broken{number}.wav", "language": "en"})
    (root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fitted = KMeansTokenizer.fit([sounds.waveform(seed) for seed in range(6)], KMeansSection(codebook_size=30))
    fitted.save(str(root / "tokenizer"))


def start(
    corpus: Path,
    output: Path,
    address: str | None,
    *,
    say: Any = subprocess.DEVNULL,
    own_group: bool = False,
    **changes: Any,
) -> "subprocess.Popen[str]":
    """The job as a process of its own, on the cluster at `address` or one that it starts.

    `changes` are settings with `__` for the dot, `say` is for both its outputs; with `own_group` it leads a group of
    processes, as a job that was started in a terminal does.
    """
    settings = {
        "corpus.manifest": corpus / "corpus.jsonl",
        "corpus.rows_per_shard": 4,
        "output.path": output,
        "tokenizer.path": corpus / "tokenizer",
        "decode.piece_s": 8,  # several pieces a shard
        "max_reject_fraction": 0.5,
        **({"cluster.address": address} if address else {}),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-P", str(ROOT / "jobs" / "tokenize.py"), *arguments]
    return subprocess.Popen(
        command, cwd="/", stdout=say, stderr=subprocess.STDOUT, text=True, process_group=0 if own_group else None
    )


def tables(output: Path) -> tuple[pa.Table, pa.Table]:
    """Units and rejects of an output, each checked against its contract and sorted by id."""
    units = storage.read_table(str(output / "units"))
    units = contracts.load("units").check(units).sort_by("id")
    files = storage.list_files(str(output / "rejects"), ".parquet")
    rejects = contracts.load("rejects").check(storage.read_table(files)).sort_by("id")
    return units, rejects


def finished_shards(output: Path) -> list[str]:
    """Names of the shards that are in the ledger of an output."""
    return sorted(path.stem for path in (output / "ledger").glob("*.json"))

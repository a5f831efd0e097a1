"""The tokenize pipeline against the bare tokenizer on the same core, and what scale costs it.

- end_to_end_over_bare: audio a second of the whole pipeline (read, decode, tokenize, write) in steady state over that
  of the S3 v1 network's forward on audio that is decoded already; `_light` the same with k-means units.
- bucketed_over_padded: S3 v1 on clips of mixed lengths in buckets over batches of 8 in order, padded to their longest.
- driver_memory_1m_over_1k: peak memory of the job's driver with a manifest of a million rows over one of a thousand.
- per_worker_4_over_1: throughput a worker on a simulated cluster of 4 nodes over that on 1, on work that waits.

All of one case run in turns on the same cores; medians are compared. The networks have random weights, of the true
size but for --quick.
"""

import sys

# A file of this name beside others on the path would be taken for the standard library's `tokenize`.
sys.path[:] = [folder for folder in sys.path if folder not in ("", sys.path[0])]

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in (str(ROOT), str(ROOT / "platform")):
    sys.path.insert(0, folder)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from cslm import cluster
from cslm.apps import tokenize_pipeline
from cslm.apps.tokenize_pipeline import DecodeSection, TokenizerSection
from cslm.data import manifest
from cslm.data.corpora import CorpusSection
from cslm.data.intake import Intake
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import encode_all
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.speech.tokenizers.s3 import S3Tokenizer

Clip = NDArray[np.float32]
RATE_HZ = 16_000


def clip(seed: int, seconds: float) -> Clip:
    """Noise whose colour and loudness change ten times a second, as that of speech does."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(round(seconds * RATE_HZ)).astype(np.float32)
    smooth = np.convolve(noise, np.ones(8, np.float32) / 8, mode="same")
    blend = np.repeat(rng.random(len(noise) // 1600 + 1).astype(np.float32), 1600)[: len(noise)]
    loud = np.repeat(rng.random(len(noise) // 1600 + 1).astype(np.float32), 1600)[: len(noise)]
    return np.clip((blend * noise * 0.3 + (1 - blend) * smooth) * loud * 0.5, -1, 1)


def corpus(folder: Path, clips: Sequence[Clip]) -> str:
    """Write clips as 16-bit wav with a manifest, and return its path."""
    import soundfile

    folder.mkdir(parents=True)
    rows = []
    for number, samples in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", samples, RATE_HZ)
        rows.append({"id": f"c{number:06d}", "audio": f"{number}.wav", "language": "en"})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "corpus.jsonl")


def pipeline_rate(output: Path, path: str, tokenizer: str, rows_per_shard: int, **section: Any) -> tuple[float, float]:
    """Audio seconds a second from the first piece's arrival to the last one's, and seconds until the first."""
    described = speech.describe(tokenizer)
    assert described is not None
    prepared = manifest.prepare(CorpusSection(manifest=path, rows_per_shard=rows_per_shard), str(output))
    speech.copy(tokenizer, str(output / "tokenizer"))
    started_s = time.perf_counter()
    arrivals = [
        (time.perf_counter(), result["counts"]["audio_s"])
        for result in tokenize_pipeline.run(
            prepared.shards,
            str(output),
            described,
            tokenizer=TokenizerSection(kind=described["kind"], device="cpu", **section),
            decode=DecodeSection(),
            intake=Intake(),
        )
    ]
    (first_s, _), (last_s, _) = arrivals[0], arrivals[-1]
    return sum(audio_s for _, audio_s in arrivals[1:]) / (last_s - first_s), first_s - started_s


def bare_rate(tokenizer: Any, clips: Sequence[Clip]) -> float:
    """Audio seconds a second of the tokenizer alone, in the batches that suit it best on this device."""
    started_s = time.perf_counter()
    encode_all(tokenizer, clips)
    return sum(map(len, clips)) / RATE_HZ / (time.perf_counter() - started_s)


def end_to_end(work: Path, name: str, tokenizer: str, clips: Sequence[Clip], turns: int, per_shard: int) -> float:
    """Pipeline over bare forward; one core holds everything, Ray included."""
    path = corpus(work / f"{name}-corpus", clips)
    described = speech.describe(tokenizer)
    assert described is not None
    alone = speech.load(described["kind"], tokenizer)
    encode_all(alone, clips[:2])
    ratios, starts = [], []
    before = bare_rate(alone, clips)
    for turn in range(turns):
        rate, start_s = pipeline_rate(work / f"{name}-{turn}", path, tokenizer, per_shard, max_actors=1)
        after = bare_rate(alone, clips)
        ratios.append(rate / ((before + after) / 2))
        starts.append(start_s)
        print(
            f"  {name:<8} turn {turn}: pipeline {rate:8.1f} audio s/s in steady state ({start_s:.1f} s to the first "
            f"shard), bare {before:8.1f} and {after:8.1f}",
            flush=True,
        )
        before = after
    return statistics.median(ratios)


def s3_tokenizer(folder: Path, width: int) -> str:
    """S3 v1 with random weights: six layers of `width`, 1280 as published."""
    from s3tokenizer.model import ModelConfig
    from s3tokenizer.model import S3Tokenizer as Network

    torch.manual_seed(0)
    config = ModelConfig(n_audio_state=width, n_audio_head=width // 64)
    network = Network("speech_tokenizer_v1", config)
    S3Tokenizer.pack("speech_tokenizer_v1", network.state_dict()).save(str(folder))
    return str(folder)


def bucketed_over_padded(tokenizer: str, clips: Sequence[Clip], turns: int) -> float:
    """Our batches over batches of 8 in order, padded to their longest, by the package's own functions."""
    import s3tokenizer

    ours = speech.load("s3", tokenizer)
    network = ours._network

    def padded() -> None:
        with torch.inference_mode():
            for first in range(0, len(clips), 8):
                mels = [s3tokenizer.log_mel_spectrogram(torch.from_numpy(one)) for one in clips[first : first + 8]]
                network.quantize(*s3tokenizer.padding(mels))

    def timed(work: Callable[[], Any]) -> float:
        started_s = time.perf_counter()
        work()
        return time.perf_counter() - started_s

    ratios = []
    for turn in range(turns):
        theirs_s, ours_s = timed(padded), timed(lambda: encode_all(ours, clips))
        ratios.append(theirs_s / ours_s)
        print(f"  mixed lengths, turn {turn}: padded {theirs_s:.1f} s, ours {ours_s:.1f} s", flush=True)
    return statistics.median(ratios)


def driver_memory(work: Path, tokenizer: str, num_rows: int) -> float:
    """Peak resident MB of the tokenize job's driver; the rows' audio is not there, so each row is a reject."""
    folder = work / f"rows-{num_rows}"
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w") as stream:
        for number in range(num_rows):
            row = {"id": f"utterance-{number:08d}", "audio": f"{number % 1000}/{number}.wav", "language": "en"}
            stream.write(json.dumps(row | {"text": f"what was said in utterance {number}"}) + "\n")
    settings = {
        "corpus.manifest": folder / "corpus.jsonl",
        "corpus.rows_per_shard": 2000,
        "output.path": folder / "out",
        "tokenizer.path": tokenizer,
        "max_reject_fraction": 1,
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    code = (
        "from cslm.apps import tokenize\n"
        f"code = tokenize.main({arguments!r})\n"
        # Not getrusage: it counts what the parent held when it started this process.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(code, int(peak.split()[1]) / 1024)\n"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db"}
    environment.pop("RAY_ADDRESS", None)
    started_s = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=False)
    exit_code, megabytes = ended.stdout.split()[-2:]
    assert exit_code == "0", ended.stderr
    print(
        f"  {num_rows:>9,} rows: driver {float(megabytes):.0f} MB, {time.perf_counter() - started_s:.0f} s", flush=True
    )
    return float(megabytes)


def waiting_rate(work: Path, path: str, num_nodes: int) -> float:
    """Audio seconds a second a worker on a cluster of `num_nodes` one-core nodes, with a tokenizer that waits."""
    tokenizer = work / "waiting"
    kind = "tests.benchmarks._waiting:WaitingTokenizer"
    speech.make(kind, {"wait_s": 0.25}, [], "cpu").save(str(tokenizer))
    # The head has no CPU to give: every actor is on a node of its own.
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(num_nodes):
            nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, logging_level="error", log_to_driver=False, runtime_env=cluster.runtime_env())
        rate, _ = pipeline_rate(
            work / f"waiting-{num_nodes}", path, str(tokenizer), 4, min_actors=num_nodes, max_actors=num_nodes
        )
    finally:
        ray.shutdown()
        nodes.shutdown()
    print(f"  {num_nodes} nodes: {rate / num_nodes:.2f} audio s/s a worker", flush=True)
    return rate / num_nodes


def mixed_lengths(count: int) -> list[Clip]:
    """Nine of ten of 1 to 6 s, one of ten of 20 to 30 s."""
    rng = np.random.default_rng(1)
    lengths = [rng.uniform(20, 30) if number % 10 == 4 else rng.uniform(1, 6) for number in range(count)]
    return [clip(number, seconds) for number, seconds in enumerate(lengths)]


WANTED = {
    "end_to_end_over_bare": ">= 0.9",
    "end_to_end_over_bare_light": ">= 0.5",
    "bucketed_over_padded": ">= 2.5",
    "driver_memory_1m_over_1k": "<= 1.3",
    "per_worker_4_over_1": ">= 0.9",
}


def main() -> None:
    """Run, print a table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a narrower network, fewer rows and turns")
    parser.add_argument("--only", nargs="+", choices=WANTED, default=list(WANTED), help="some of the ratios")
    options = parser.parse_args()
    quick, turns = options.quick, 1 if options.quick else 3
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="cslm-bench-") as folder:
        work = Path(folder)
        s3 = s3_tokenizer(work / "s3", 256 if quick else 1280)
        kmeans = str(work / "kmeans")
        KMeansTokenizer.fit([clip(seed, 4.0) for seed in range(20)], KMeansSection(codebook_size=500)).save(kmeans)
        speech_like = [clip(seed, 1.5 + seed % 7) for seed in range(48 if quick else 96)]
        ratios: dict[str, float] = {}

        def on_one_core(measure: Callable[[], float]) -> float:
            os.sched_setaffinity(0, cores[:1])
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
                runtime_env=cluster.runtime_env(),
            )
            try:
                return measure()
            finally:
                ray.shutdown()
                os.sched_setaffinity(0, cores)

        def per_worker() -> float:
            waited = corpus(work / "waited", [clip(seed, 0.5) for seed in range(96 if quick else 192)])
            one, four = waiting_rate(work, waited, 1), waiting_rate(work, waited, 4)
            return four / one

        def memory() -> float:
            few, many = (driver_memory(work, kmeans, count) for count in (1_000, 50_000 if quick else 1_000_000))
            return many / few

        light = speech_like * (16 if quick else 60)
        measures: dict[str, tuple[str, Callable[[], float]]] = {
            "end_to_end_over_bare": (
                "S3 v1, one core for all, Ray included",
                lambda: on_one_core(lambda: end_to_end(work, "s3", s3, speech_like, turns, 8)),
            ),
            "end_to_end_over_bare_light": (
                "k-means, one core for all, Ray included",
                lambda: on_one_core(lambda: end_to_end(work, "kmeans", kmeans, light, turns, 512)),
            ),
            "bucketed_over_padded": (
                "clips of mixed lengths",
                lambda: bucketed_over_padded(s3, mixed_lengths(20 if quick else 40), turns),
            ),
            "per_worker_4_over_1": ("simulated cluster", per_worker),
            "driver_memory_1m_over_1k": ("driver memory", memory),
        }
        for name, (title, measure) in measures.items():
            if name in options.only:
                print(title, flush=True)
                ratios[name] = measure()
    print(f"\n{'ratio':<32}{'found':>8}{'wanted':>10}")
    for name, ratio in ratios.items():
        print(f"{name:<32}{ratio:>8.3f}{WANTED[name]:>10}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": len(cores), "quick": quick}
    versions = {"ray": ray.__version__, "torch": torch.__version__}
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"benchmark": "tokenize", "ratios": rounded, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()

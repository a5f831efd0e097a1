"""Ten million utterances through the tokenize job's own plan, on many simulated nodes, as metadata only.

Shards hold ids and lengths and no audio; decoding, computing and writing are replaced by waiting, so what is left is
the organisation: Ray Data's scheduling, the object store, the driver. Nodes are processes of this machine.

- scheduling_overhead: time of the whole run over that of the waiting alone, spread evenly over the GPUs, less 1.
- driver_growth: memory that the driver grew by, over that of a hundredth of the utterances.

`shards_per_s_most` beside them says how many shards a second came back when none takes any time, all nodes' processes
sharing this machine, and `driver_cpu_ms_a_shard` what the driver itself worked for one: the cluster may not be larger
than what keeps that many busy. From these and from prices and speeds that are given (--audio_s_per_gpu_s, --gpu_price
...) follows what a million hours of audio would take.
"""

import sys

# A file of this name beside others on the path would be taken for the standard library's `tokenize`.
sys.path[:] = [folder for folder in sys.path if folder not in ("", sys.path[0])]

import argparse
import json
import math
import os
import platform
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (str(ROOT), str(ROOT / "platform")):
    sys.path.insert(0, folder)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import psutil
import pyarrow as pa
import ray
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from cslm import cluster
from cslm.apps import shard_pipeline
from cslm.apps.shard_pipeline import ActorsSection, Compute, Steps
from cslm.data.ledger import Entry

# Of the corpora of the method: 783 million clips in a million hours.
MEAN_S = 4.6


@dataclass
class Found:
    """What a run showed."""

    shards: int
    wall_s: float
    steady_per_s: float
    first_s: float
    driver_grew_mb: float
    driver_cpu_s: float
    spilled_mb: int


def decode(shard: Entry, rows: int) -> Iterator[tuple[pa.Table, bool]]:
    """Ids and lengths, as a decoded shard has them beside its audio."""
    first = shard["number"] * rows
    ids = [f"utterance-{number:09d}" for number in range(first, first + rows)]
    yield pa.table({"id": ids, "duration_s": pa.array([MEAN_S] * rows, pa.float32())}), True


def load(device: str, wait_s: float) -> Compute:
    """An actor that takes `wait_s` for a shard."""

    def compute(piece: pa.Table) -> tuple[Mapping[str, pa.Table], Entry]:
        time.sleep(wait_s)
        return {"units": piece}, {"utterances": piece.num_rows}

    return compute


def write(shard: Entry, piece: int, tables: Mapping[str, pa.Table]) -> None:
    """Nothing is written."""


class Memory:
    """The most memory that this process held while a block ran, above what it held before."""

    def __enter__(self) -> "Memory":
        self._process, self.grew_mb, self._over = psutil.Process(), 0.0, threading.Event()
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self.grew_mb = max(self.grew_mb, (self._process.memory_info().rss - self._before) / 2**20)

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def run(utterances: int, rows: int, wait_s: float, num_gpus: int) -> Found:
    """The plan of the tokenize job over so many utterances, in shards of `rows`."""
    shards = [{"name": f"shard-{number:06d}", "number": number} for number in range(math.ceil(utterances / rows))]
    steps = Steps(partial(decode, rows=rows), partial(load, wait_s=wait_s), write, piece_bytes=1 << 20)
    actors = ActorsSection(device="cuda", accelerator="L4", initial_actors=num_gpus, max_actors=num_gpus)
    started_s, arrivals, seen = time.perf_counter(), [], 0
    cpu_before_s = time.process_time()
    with Memory() as memory:
        for result in shard_pipeline.run(shards, steps, actors, apart=True, decode_cpus=1.0):
            arrivals.append(time.perf_counter() - started_s)
            seen += result["counts"]["utterances"]
    cpu_s = time.process_time() - cpu_before_s
    assert seen == len(shards) * rows, f"{len(shards) * rows:,} utterances must come out, found {seen:,}"
    told = re.search(r"Spilled (\d+) MiB", memory_summary(stats_only=True))
    steady = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) if len(arrivals) > 1 else 0.0
    spilled = int(told.group(1)) if told else 0
    return Found(len(shards), arrivals[-1], steady, arrivals[0], memory.grew_mb, cpu_s, spilled)


def projection(options: argparse.Namespace, most_per_s: float) -> list[tuple[str, str]]:
    """What a million hours of audio would take, by what is given and what was measured."""
    audio_s = options.hours * 3600
    gpu_hours = audio_s / options.audio_s_per_gpu_s / 3600
    shard_s = options.rows_per_shard * MEAN_S / options.audio_s_per_gpu_s
    # With half of the shards that a driver can hand out there is room for what is not even.
    most_gpus = int(most_per_s / 2 * shard_s)
    num_gpus = min(options.gpus, most_gpus)
    return [
        ("audio", f"{options.hours:,.0f} hours, {audio_s / MEAN_S / 1e6:,.0f} million utterances"),
        ("a GPU takes", f"{options.audio_s_per_gpu_s:,.0f} s of audio a second, {shard_s:,.1f} s for a shard"),
        ("one driver keeps busy", f"{most_gpus:,} GPUs"),
        ("GPUs", f"{num_gpus:,}"),
        ("GPU hours", f"{gpu_hours:,.0f}"),
        ("wall time", f"{gpu_hours / num_gpus:,.1f} hours"),
        ("cost of the GPU nodes", f"{gpu_hours * options.gpu_price:,.0f} $ at {options.gpu_price} $ an hour"),
    ]


def main() -> None:
    """Run, print tables, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the utterances on 2 nodes")
    parser.add_argument("--utterances", type=int, default=10_000_000)
    parser.add_argument("--nodes", type=int, default=8, help="simulated nodes of one GPU")
    parser.add_argument("--rows_per_shard", type=int, default=2048)
    parser.add_argument("--wait_s", type=float, default=0.5, help="what stands for the work on a shard")
    parser.add_argument("--hours", type=float, default=1e6, help="of audio, in the projection")
    parser.add_argument("--gpus", type=int, default=16, help="that the cluster may have, in the projection")
    parser.add_argument("--audio_s_per_gpu_s", type=float, default=400.0, help="speed of the tokenizer, an assumption")
    parser.add_argument("--gpu_price", type=float, default=0.40, help="$ an hour of a node of one GPU, an assumption")
    options = parser.parse_args()
    utterances, nodes = (200_000, 2) if options.quick else (options.utterances, options.nodes)
    # Nodes share this machine's cores, so tasks come to each seldom. Its workers would be ended in between as idle, and
    # started anew for most tasks, which takes a hundred times as long as the task.
    kept = {"idle_worker_killing_time_threshold_ms": 3_600_000}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": kept}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        made.add_node(
            num_cpus=4, num_gpus=1, resources={"accelerator_type:L4": 1}, object_store_memory=80 << 20, wait=True
        )
    try:
        ray.init(address=made.address, runtime_env=cluster.runtime_env(), log_to_driver=False, logging_level="error")
        # The first is also what starts workers and imports.
        small = run(utterances // 100, options.rows_per_shard, 0.0, nodes)
        most = run(utterances, options.rows_per_shard, 0.0, nodes)
        waited_shards = min(most.shards, max(nodes * 40, most.shards // 10))
        waited = run(waited_shards * options.rows_per_shard, options.rows_per_shard, options.wait_s, nodes)
    finally:
        ray.shutdown()
        made.shutdown()
    ideal_s = waited.shards * options.wait_s / nodes
    overhead = (waited.wall_s - waited.first_s + options.wait_s) / ideal_s - 1
    print(
        f"{'run':<28}{'shards':>8}{'wall s':>9}{'shards/s':>10}{'driver grew MB':>16}{'driver CPU ms':>15}"
        f"{'spilled MB':>12}"
    )
    for name, found in (("a hundredth, no work", small), ("all, no work", most), ("some, waiting", waited)):
        print(
            f"{name:<28}{found.shards:>8,}{found.wall_s:>9.1f}{found.steady_per_s:>10.1f}"
            f"{found.driver_grew_mb:>16.0f}{found.driver_cpu_s / found.shards * 1e3:>15.0f}{found.spilled_mb:>12}"
        )
    print(f"\none driver: {most.steady_per_s * options.rows_per_shard:,.0f} utterances a second where none takes time")
    for name, value in projection(options, most.steady_per_s):
        print(f"  {name:<24}{value}")
    ratios = {
        "scheduling_overhead": round(overhead, 3),
        "driver_growth": round(most.driver_grew_mb / max(small.driver_grew_mb, 1.0), 2),
    }
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "nodes": nodes}
    told = {"utterances": utterances, "shards": most.shards, "shards_per_s_most": round(most.steady_per_s, 1)}
    told |= {"spilled_mb": most.spilled_mb, "driver_grew_mb": round(most.driver_grew_mb)}
    told["driver_cpu_ms_a_shard"] = round(most.driver_cpu_s / most.shards * 1e3)
    document = {"benchmark": "scale", "ratios": ratios, "found": told, "machine": machine}
    print(json.dumps({**document, "versions": {"ray": ray.__version__}}))


if __name__ == "__main__":
    main()

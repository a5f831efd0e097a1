"""The cluster of ray_cluster.yaml with processes of this machine for nodes: a head without work, workers from none.

The types of worker, what they are called and what the autoscaler may start are those of the file; scheduling and
autoscaling are Ray's own. A node has fewer GPUs here, and they are numbers.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from cslm import contracts, storage
from tests.data import growing_cluster, sounds
from tests.data.growing_cluster import Worker

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 60
IDLE_S = 8
TYPES = {
    "tokenize_gpu": Worker({"CPU": 2, "GPU": 1, "accelerator_type:L4": 1}, 2),
    "train_gpu": Worker({"CPU": 2, "GPU": 2, "accelerator_type:H100": 1}, 2),
    "cpu": Worker({"CPU": 2}, 2),
}
WATCH = """
import json, sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
while True:
    alive = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]]
    print(json.dumps([[node["NodeID"], sorted(node["Resources"])] for node in alive]), flush=True)
    time.sleep(0.3)
"""
GANG = """
import sys
import ray
from cslm import gang
from cslm.gang import GangSection

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
gang.wait(int(sys.argv[2]), GangSection(accelerator="H100", max_wait_s=float(sys.argv[3])), use_gpu=True)
print("together:", sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Watched:
    """The workers of a cluster, as another process sees them."""

    def __init__(self, address: str) -> None:
        self.seen: list[dict[str, list[str]]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", WATCH, address], stdout=subprocess.PIPE, text=True, env=environment()
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):  # Ray says things too
                self.seen.append(dict(json.loads(line)))

    def wait_for(self, count: int, within_s: float = 120) -> None:
        """Until so many workers are there."""
        give_up_s = time.monotonic() + within_s
        while not self.seen or len(self.seen[-1]) != count:
            assert time.monotonic() < give_up_s, f"{len(self.seen[-1]) if self.seen else 0} workers, not {count}"
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def environment() -> dict[str, str]:
    may_start = {"L4": 2, "H100": 4}
    told = ",".join(f"{kind}:{count}" for kind, count in may_start.items())
    return os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "CSLM_AUTOSCALED_GPUS": told}


@contextmanager
def cluster() -> Iterator[tuple[str, Watched]]:
    with growing_cluster.growing({"CPU": 0}, TYPES, idle_s=IDLE_S) as address:
        watched = Watched(address)
        try:
            yield address, watched
        finally:
            watched.stop()


@pytest.fixture
def corpus(home):
    rows = []
    for number in range(NUM_CLIPS):
        sounds.write(home / f"{number}.wav", number, 0.5)
        rows.append({"id": f"c{number:02d}", "audio": f"{number}.wav", "language": "en"})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def tokenize(address):
    settings = {
        "corpus.manifest": "corpus.jsonl",
        "corpus.rows_per_shard": 2,
        "output.path": "out",
        "tokenizer.kind": "tests.benchmarks._waiting:WaitingTokenizer",
        "tokenizer.options.wait_s": 1.0,
        "tokenizer.accelerator": "L4",
        "cluster.address": address,
    }
    command = [sys.executable, "-P", str(ROOT / "jobs" / "tokenize.py")]
    command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def check_units(home):
    units = contracts.load("units").check(storage.read_table(str(home / "out" / "units"))).sort_by("id")
    assert units.column("id").to_pylist() == [f"c{number:02d}" for number in range(NUM_CLIPS)]
    told = storage.read_json(str(home / "out" / "summary.json"))["rows"]
    assert (told["accepted"], told["rejected"]) == (NUM_CLIPS, 0)


def test_the_types_are_those_of_the_file():
    told = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    assert set(TYPES) == set(told) - {"head"}


def test_workers_with_the_wanted_gpus_rise_from_none_and_fall_to_none(corpus):
    with cluster() as (address, watched):
        watched.wait_for(0)
        job = tokenize(address)
        said, _ = job.communicate()
        assert job.returncode == 0, said
        check_units(corpus)
        counts = [len(workers) for workers in watched.seen]
        kinds = {kind for workers in watched.seen for have in workers.values() for kind in have if "accel" in kind}
        assert max(sum("GPU" in have for have in workers.values()) for workers in watched.seen) == 2
        # Though nodes with H100s have GPUs too.
        assert kinds == {"accelerator_type:L4"}
        assert counts[0] == 0
        watched.wait_for(0)


def test_a_worker_that_is_killed_in_the_middle_is_replaced_and_nothing_is_lost(corpus):
    with cluster() as (address, watched):
        job = tokenize(address)
        ledger = corpus / "out" / "ledger"
        while len(list(ledger.glob("*.json"))) < 4:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        lost = next(node for node, have in watched.seen[-1].items() if "GPU" in have)
        raylets = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(lost in part for part in process.info["cmdline"] or []) and "raylet" in process.info["cmdline"][0]
        ]
        assert len(raylets) == 1
        raylets[0].kill()
        said, _ = job.communicate()
        assert job.returncode == 0, said
        check_units(corpus)
        with_gpus = {node for workers in watched.seen for node, have in workers.items() if "GPU" in have}
        assert len(with_gpus - {lost}) >= 2


def test_a_gang_is_waited_for_aloud_and_comes_whole(home):
    with cluster() as (address, watched):
        watched.wait_for(0)
        run = [sys.executable, "-c", GANG, address]
        done = subprocess.run([*run, "4", "120"], env=environment(), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "waiting for 4 x H100, 0 of 4 here" in done.stdout
        assert "4 x H100 are here after" in done.stdout
        assert "together: 4.0" in done.stdout
        # More than the autoscaler may start: nothing of it is started for nothing.
        watched.wait_for(0)
        seen = len(watched.seen)
        done = subprocess.run([*run, "6", "12"], env=environment(), text=True, capture_output=True, check=False)
        assert done.returncode != 0
        assert "training needs 6 x H100 at once, found 0 of 6" in done.stderr
        assert all(not workers for workers in watched.seen[seen:])

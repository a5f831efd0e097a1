"""The job on clusters that begin with nothing to compute on: their autoscaler starts nodes as the job asks for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cslm import contracts, storage
from tests.data import growing_cluster, sounds
from tests.data.growing_cluster import Worker

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 60
JOB = """
import sys, threading, time
import ray
from cslm.apps import tokenize

most = 0

def watch():
    global most
    while True:
        if ray.is_initialized():
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            most = max(most, sum("node:__internal_head__" not in resources for resources in alive))
        time.sleep(0.2)

threading.Thread(target=watch, daemon=True).start()
code = tokenize.main(sys.argv[1:])
print("most nodes:", most)
sys.exit(code)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def corpus(home):
    rows = []
    for number in range(NUM_CLIPS):
        sounds.write(home / f"{number}.wav", number, 0.5)
        rows.append({"id": f"c{number:02d}", "audio": f"{number}.wav", "language": "en"})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def tokenized(corpus, cluster, **changes):
    """The units of the corpus, and how many nodes were seen beside the head."""
    settings = {
        "corpus.manifest": "corpus.jsonl",
        "corpus.rows_per_shard": 2,
        "output.path": "out",
        "tokenizer.kind": "tests.benchmarks._waiting:WaitingTokenizer",
        "tokenizer.options.wait_s": 1.0,
        "tokenizer.max_actors": 2,
        "cluster.address": cluster,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    ended = subprocess.run(
        [sys.executable, "-c", JOB, *arguments], env=environment, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    units = contracts.load("units").check(storage.read_table(str(corpus / "out" / "units")))
    return units.sort_by("id"), int(ended.stdout.rpartition("most nodes: ")[2])


def test_the_pool_grows_from_no_gpu_to_all_that_the_autoscaler_may_start(corpus):
    with growing_cluster.growing({"CPU": 4}, {"gpu": Worker({"CPU": 1, "GPU": 1}, 2)}) as cluster:
        units, num_nodes = tokenized(corpus, cluster, tokenizer__device="cuda")
    assert units.column("id").to_pylist() == [f"c{number:02d}" for number in range(NUM_CLIPS)]
    assert num_nodes == 2


def test_a_head_without_cpus_waits_for_nodes_and_the_job_begins_on_the_first(corpus):
    with growing_cluster.growing({"CPU": 0}, {"cpu": Worker({"CPU": 1}, 2)}) as cluster:
        units, num_nodes = tokenized(corpus, cluster)
    assert units.column("id").to_pylist() == [f"c{number:02d}" for number in range(NUM_CLIPS)]
    assert num_nodes == 2

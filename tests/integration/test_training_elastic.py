"""A run over a range of workers follows the nodes of its cluster, and saves when one is going to be taken away."""

import subprocess
import sys
import time

import pytest

from cslm.train import checkpoint
from tests.data import nodes as nodes_of
from tests.data import pretraining, tables
from tests.data.pretraining import tracked

SETTINGS = {
    # So little that the loss of a step tells which rows it was of.
    "train.learning_rate": 1e-7,
    "train.checkpoint_every_steps": 10,
    "train.resize_every_s": 3,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def nodes():
    with nodes_of.cluster() as cluster:
        yield cluster


def start(home, output, address, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    settings = {"cluster.address": address, **SETTINGS, **changes}
    return pretraining.Process(home, output, settings, RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5")


def checkpoint_of(job, met):
    """The newest complete checkpoint's marker, once it is as wanted."""
    while True:
        assert job.process.poll() is None, "".join(job.lines[-60:])
        for step in checkpoint.complete_steps(job.output)[-1:]:
            saved = checkpoint.markers(checkpoint.step_folder(job.output, step))
            if saved and met(saved[0]):
                return saved[0]
        time.sleep(0.1)


def test_a_lost_node_shrinks_the_run_and_a_new_one_grows_it(nodes, tmp_path):
    tables.write(tmp_path)
    first, second = (nodes.add_node(num_cpus=1) for _ in range(2))
    job = start(tmp_path, "elastic", nodes.address, train__num_workers="1..2", train__max_steps=1500)
    checkpoint_of(job, lambda saved: saved["world_size"] == 2)
    nodes.remove_node(second, allow_graceful=False)
    alone = checkpoint_of(job, lambda saved: saved["world_size"] == 1)
    third = nodes.add_node(num_cpus=1)
    grown = checkpoint_of(job, lambda saved: saved["world_size"] == 2 and saved["step"] > alone["step"])
    assert grown["step"] < 1500
    summary = job.end()
    steady = start(tmp_path, "steady", nodes.address, train__num_workers=1, train__max_steps=1500).end()
    assert summary["tokens"] == steady["tokens"]
    found, expected = tracked(tmp_path, "elastic")[1], tracked(tmp_path, "steady")[1]
    assert [step for step, _ in found] == list(range(1, 1501))
    assert dict(found) == pytest.approx(dict(expected), abs=1e-3)
    for node in (first, third):
        nodes.remove_node(node, allow_graceful=False)


def test_a_notice_that_a_node_goes_saves_at_once(nodes, tmp_path):
    tables.write(tmp_path)
    added = [nodes.add_node(num_cpus=1) for _ in range(2)]
    changes = {"train__num_workers": "1..2", "train__max_steps": 3000, "train__checkpoint_every_steps": 1000}
    job = start(tmp_path, "noticed", nodes.address, **changes)
    while not any("step 1/" in line for line in job.lines):
        assert job.process.poll() is None, "".join(job.lines[-60:])
        time.sleep(0.1)
    drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", nodes.address]
    drain += ["--node-id", added[1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    drain += ["--reason-message", "spot", "--deadline-remaining-seconds", "20"]
    subprocess.run(drain, check=True)
    saved = checkpoint_of(job, lambda saved: True)
    assert saved["step"] % 1000
    assert saved["world_size"] == 2
    nodes.remove_node(added[1], allow_graceful=False)
    assert job.end()["steps"] == 3000
    assert [step for step, _ in tracked(tmp_path, "noticed")[1]] == list(range(1, 3001))

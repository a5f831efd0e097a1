"""A run over a range of workers follows the nodes of its cluster, and saves when one is going to be taken away."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cslm import storage
from cslm.tracking import Run
from cslm.train import checkpoint
from tests.data import tables

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "data.units": "units",
    "data.parallel_text": "parallel_text",
    "data.row_length": 128,
    "model.shape": "micro",
    "model.text_vocab_size": 320,
    "train.rows_per_step": 4,
    "train.micro_batch_rows": 2,
    # So little that the loss of a step tells which rows it was of.
    "train.learning_rate": 1e-7,
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 10,
    "train.resize_every_s": 3,
    "train.device": "cpu",
    "deepspeed.precision": "fp32",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def nodes():
    folder = tempfile.mkdtemp(prefix="cslm-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        # Ray notes the newest cluster of the machine there, for whoever asks for any.
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        yield cluster
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Job:
    def __init__(self, home, output, address, **changes):
        settings = {"output.path": output, "cluster.address": address, **SETTINGS}
        settings |= {key.replace("__", "."): value for key, value in changes.items()}
        command = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        environment = {**os.environ, "CSLM_HOME": str(home), "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.output, self.lines = str(home / output), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self.lines.extend(self.process.stdout)

    def wait_for_checkpoint(self, met):
        """The newest complete checkpoint's marker, once it is as wanted."""
        while True:
            assert self.process.poll() is None, "".join(self.lines[-60:])
            for step in checkpoint.complete_steps(self.output)[-1:]:
                saved = checkpoint.markers(checkpoint.step_folder(self.output, step))
                if saved and met(saved[0]):
                    return saved[0]
            time.sleep(0.1)

    def end(self):
        assert self.process.wait() == 0, "".join(self.lines[-60:])
        return storage.read_json(f"{self.output}/summary.json")


def losses(home, output):
    record = storage.read_json(str(home / output / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{home}/mlflow.db"})
    return [(point.step, point.value) for point in run._client.get_metric_history(record["run_id"], "loss/total")]


def test_a_lost_node_shrinks_the_run_and_a_new_one_grows_it(nodes, tmp_path):
    tables.write(tmp_path)
    first, second = (nodes.add_node(num_cpus=1) for _ in range(2))
    job = Job(tmp_path, "elastic", nodes.address, train__num_workers="1..2", train__max_steps=1500)
    job.wait_for_checkpoint(lambda saved: saved["world_size"] == 2)
    nodes.remove_node(second, allow_graceful=False)
    alone = job.wait_for_checkpoint(lambda saved: saved["world_size"] == 1)
    third = nodes.add_node(num_cpus=1)
    grown = job.wait_for_checkpoint(lambda saved: saved["world_size"] == 2 and saved["step"] > alone["step"])
    assert grown["step"] < 1500
    summary = job.end()
    steady = Job(tmp_path, "steady", nodes.address, train__num_workers=1, train__max_steps=1500).end()
    assert summary["tokens"] == steady["tokens"]
    found, expected = losses(tmp_path, "elastic"), losses(tmp_path, "steady")
    assert [step for step, _ in found] == list(range(1, 1501))
    assert dict(found) == pytest.approx(dict(expected), abs=1e-3)
    for node in (first, third):
        nodes.remove_node(node, allow_graceful=False)


def test_a_notice_that_a_node_goes_saves_at_once(nodes, tmp_path):
    tables.write(tmp_path)
    added = [nodes.add_node(num_cpus=1) for _ in range(2)]
    changes = {"train__num_workers": "1..2", "train__max_steps": 3000, "train__checkpoint_every_steps": 1000}
    job = Job(tmp_path, "noticed", nodes.address, **changes)
    while not any("step 1/" in line for line in job.lines):
        assert job.process.poll() is None, "".join(job.lines[-60:])
        time.sleep(0.1)
    drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", nodes.address]
    drain += ["--node-id", added[1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    drain += ["--reason-message", "spot", "--deadline-remaining-seconds", "20"]
    subprocess.run(drain, check=True)
    saved = job.wait_for_checkpoint(lambda saved: True)
    assert saved["step"] % 1000
    assert saved["world_size"] == 2
    nodes.remove_node(added[1], allow_graceful=False)
    assert job.end()["steps"] == 3000
    assert [step for step, _ in losses(tmp_path, "noticed")] == list(range(1, 3001))

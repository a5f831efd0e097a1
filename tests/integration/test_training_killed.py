"""A training that is killed twenty times, by three kinds of kills, ends as one that nothing disturbed.

Every loss in the tracking run is the same to the last bit and there once, it is one run, and the weights are equal.
The moments come from a fixed seed: some steps after the last kill and some milliseconds more, or as soon as a
checkpoint is half written.
"""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from cslm import storage
from cslm.train import checkpoint
from tests.data import pretraining, tables

NUM_KILLS, NUM_STEPS, SEED = 20, 120, 6
SETTINGS = {
    "train.num_workers": 2,
    "train.max_steps": NUM_STEPS,
    "train.learning_rate": 3e-3,
    "train.checkpoint_every_steps": 2,
    "train.max_failures": NUM_KILLS,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


class Job(pretraining.Process):
    """The command of a user, to be killed."""

    def __init__(self, output, home):
        super().__init__(home, output, SETTINGS)

    def wait_for(self, met):
        """Until a condition holds, or the job ends."""
        while not met():
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        return True

    def ranks(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "RayTrainWorker" in " ".join(_command(child))]

    def kill(self, kind, choose):
        if kind == "rank":
            ranks = self.ranks()
            if ranks:
                choose(ranks).kill()
            return
        # Ray's processes of a killed driver end by themselves; until then they are not to write into the next run's.
        whole = psutil.Process(self.process.pid).children(recursive=True)
        if kind == "driver":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(whole, timeout=30)
        for process in alive:
            process.kill()


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def half_written(output):
    """Whether a checkpoint is being written now."""
    folder = Path(output) / checkpoint.FOLDER
    return any(folder.glob("step-*/.*.tmp")) or any(
        len(list(step.glob("rank-*.json"))) == 1 for step in folder.glob("step-*")
    )


def test_twenty_kills_leave_no_trace(tmp_path):
    tables.write(tmp_path)
    undisturbed = Job("undisturbed", tmp_path)
    undisturbed.end()
    draw = random.Random(SEED)
    kinds = ["rank", "driver", "cluster"] * (NUM_KILLS // 3 + 1)
    draw.shuffle(kinds)
    run_ids, done, job = set(), [], Job("killed", tmp_path)
    for kind in kinds[:NUM_KILLS]:
        if job.process.poll() is not None:
            job = Job("killed", tmp_path)
        seen, more, inside = job.num_steps, draw.randint(1, 6), draw.random() < 0.4
        if not job.wait_for(lambda job=job, until=seen + more: job.num_steps >= until):
            break
        if inside:
            job.wait_for(lambda: half_written(tmp_path / "killed"))
        else:
            time.sleep(draw.random() * 0.3)
        run_ids.add(storage.read_json(str(tmp_path / "killed" / "mlflow_run.json"))["run_id"])
        job.kill(kind, draw.choice)
        done.append((kind, inside, checkpoint.complete_steps(str(tmp_path / "killed"))[-1:]))
        print(*done[-1], flush=True)
    if job.process.poll() is not None:
        job = Job("killed", tmp_path)
    job.end()
    assert len(done) == NUM_KILLS, done
    assert {kind for kind, *_ in done} == {"rank", "driver", "cluster"}
    _, expected = pretraining.tracked(tmp_path, "undisturbed")
    run, found = pretraining.tracked(tmp_path, "killed")
    assert run_ids == {run.info.run_id}
    assert run.info.status == "FINISHED"
    assert [step for step, _ in expected] == list(range(1, NUM_STEPS + 1))
    assert found == expected
    weights = [load_file(tmp_path / output / "model" / "model.safetensors") for output in ("undisturbed", "killed")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

"""Ctrl-C while the job tokenizes on a Ray of its own: it says so, leaves no process, and goes on the next time."""

import os
import signal
import time

import psutil
import pytest

from cslm import storage
from cslm.tracking import Run
from tests.data import tokenizing

NUM_CLIPS = 120
NUM_BROKEN = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("interrupted")
    tokenizing.write_corpus(root, NUM_CLIPS, NUM_BROKEN)
    return root


@pytest.fixture(scope="module")
def undisturbed(corpus, ray_cluster, tracking_store, tmp_path_factory):
    """Units and rejects of a whole run, and the number of its shards."""
    output = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert tokenizing.start(corpus, output, ray_cluster).wait() == 0
    return *tokenizing.tables(output), len(tokenizing.finished_shards(output))


def test_an_interrupted_job_says_so_and_goes_on(corpus, undisturbed, home, ray_cluster, tracking_store, monkeypatch):
    units, rejects, num_shards = undisturbed
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    output = home / "out"
    with (home / "said").open("w+") as said:
        job = tokenizing.start(corpus, output, None, say=said, own_group=True, cluster__num_cpus=2)
        while len(tokenizing.finished_shards(output)) < 3:
            assert job.poll() is None, (home / "said").read_text()
            time.sleep(0.01)
        below = psutil.Process(job.pid).children(recursive=True)
        os.killpg(job.pid, signal.SIGINT)
        job.wait()
    told = (home / "said").read_text()
    assert job.returncode == 130, told
    assert "tokenize: interrupted; the same command goes on from here" in told
    assert "Traceback" not in told
    assert below
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []
    assert len(tokenizing.finished_shards(output)) < num_shards
    run = Run.attach({"run_id": storage.read_json(str(output / "mlflow_run.json"))["run_id"], "uri": tracking_store})
    assert run._client.get_run(run.run_id).info.status == "KILLED"
    assert tokenizing.start(corpus, output, ray_cluster).wait() == 0
    found_units, found_rejects = tokenizing.tables(output)
    assert found_units.equals(units)
    assert found_rejects.equals(rejects)

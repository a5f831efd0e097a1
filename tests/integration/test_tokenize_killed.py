"""Twenty ends at random moments, of the job or of the actor that computes: the next run comes to the same tables."""

import random
import time

import psutil
import pytest

from cslm import storage
from tests.data import tokenizing

NUM_CLIPS = 120
NUM_BROKEN = 6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    tokenizing.write_corpus(root, NUM_CLIPS, NUM_BROKEN)
    return root


def start(corpus, output, address, num_actors):
    actors = {"tokenizer__min_actors": num_actors, "tokenizer__max_actors": num_actors}
    return tokenizing.start(corpus, output, address, **actors)


@pytest.fixture(scope="module")
def undisturbed(corpus, ray_cluster, tracking_store, tmp_path_factory):
    """The tables of one whole run, and how long it took."""
    output = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        started_s = time.monotonic()
        assert start(corpus, output, ray_cluster, 1).wait() == 0
    units, rejects = tokenizing.tables(output)
    assert units.num_rows == NUM_CLIPS
    assert rejects.num_rows == NUM_BROKEN
    return units, rejects, time.monotonic() - started_s


def actors():
    """The processes of the shared cluster that tokenize at the moment."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_killed_and_when_the_tables_are_the_same(seed, corpus, undisturbed, home, ray_cluster):
    units, rejects, wall_s = undisturbed
    draw = random.Random(seed)
    num_actors = draw.choice([1, 2])
    job = start(corpus, home / "out", ray_cluster, num_actors)
    moment_s = time.monotonic() + draw.uniform(0.3, 1.1) * wall_s
    while time.monotonic() < moment_s and job.poll() is None:
        time.sleep(0.01)
    if seed % 2:
        for process in actors():
            process.kill()
    else:
        job.kill()
    job.wait()
    # Another number of workers than the first time: the tables do not depend on it.
    assert start(corpus, home / "out", ray_cluster, 3 - num_actors).wait() == 0
    found_units, found_rejects = tokenizing.tables(home / "out")
    assert found_units.equals(units)
    assert found_rejects.equals(rejects)
    told = storage.read_json(str(home / "out" / "summary.json"))["rows"]
    assert (told["accepted"], told["rejected"]) == (NUM_CLIPS, NUM_BROKEN)

"""A node of the cluster is lost while the job works on it: the tables are those of a run that nothing disturbed.

The nodes are processes of this machine; what a lost one held of the object store is gone with it.
"""

import time

import pytest

from cslm import storage
from tests.data import nodes as nodes_of
from tests.data import tokenizing

NUM_CLIPS = 160
NUM_BROKEN = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes():
    with nodes_of.cluster() as cluster:
        yield cluster


@pytest.fixture
def workers(nodes):
    """Two nodes of two CPUs."""
    added = [nodes.add_node(num_cpus=2) for _ in range(2)]
    yield added
    for node in added:
        nodes.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("lost")
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


@pytest.mark.parametrize(
    "settings",
    [
        # Both actors are to be there again, on the node that stays.
        {"tokenizer__min_actors": 2, "tokenizer__max_actors": 2},
        # Decoded audio is lost with the node that made it.
        {"decode__apart": "true", "tokenizer__max_actors": 2},
    ],
    ids=["together", "apart"],
)
def test_what_a_lost_node_was_at_is_done_by_those_that_stay(settings, corpus, undisturbed, nodes, workers, home):
    units, rejects, num_shards = undisturbed
    with (home / "said").open("w+") as said:
        job = tokenizing.start(corpus, home / "out", nodes.address, say=said, **settings)
        while len(tokenizing.finished_shards(home / "out")) < 4:
            assert job.poll() is None, (home / "said").read_text()
            time.sleep(0.01)
        workers[0].all_processes["raylet"][0].process.kill()
        assert len(tokenizing.finished_shards(home / "out")) < num_shards
        assert job.wait() == 0, (home / "said").read_text()
    found_units, found_rejects = tokenizing.tables(home / "out")
    assert found_units.equals(units)
    assert found_rejects.equals(rejects)
    told = storage.read_json(str(home / "out" / "summary.json"))["rows"]
    assert (told["accepted"], told["rejected"]) == (NUM_CLIPS, NUM_BROKEN)

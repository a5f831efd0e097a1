"""A cluster on this machine whose nodes are processes, for tests that add and lose them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ray.cluster_utils import Cluster


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, which the job's own process is on, and no worker yet."""
    folder = tempfile.mkdtemp(prefix="cslm-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        # Ray notes the newest cluster of the machine there, for whoever asks for any.
        patch.setenv("RAY_TMPDIR", folder)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)

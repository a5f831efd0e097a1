"""Clusters that tests share: starting one takes longer than most of what is tested on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

os.environ["RAY_AUTH_MODE"] = "disabled"


# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tests of `integration` that start ranks of their own and no Ray.
WITHOUT_RAY = {"test_checkpoints.py", "test_equalities.py", "test_guard.py", "test_model_families.py", "test_muon.py"}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Under `-n 2`: tests of Ray one after the other, beside them all others, a file at a time."""
    return ByCluster(config, log)


class ByCluster(LoadScopeScheduling):
    """What needs the same cluster runs in the same process."""

    def _split_scope(self, nodeid: str) -> str:
        folder, _, file = nodeid.partition("::")[0].rpartition("/")
        return "ray" if folder.endswith("integration") and file not in WITHOUT_RAY else f"{folder}/{file}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a local Ray that this process is connected to, with the code as `cluster.connect` ships it."""
    import ray

    from cslm import cluster

    # Sockets lie below it, whose paths must be short.
    folder = tempfile.mkdtemp(prefix="cslm-", dir="/tmp")
    context = ray.init(
        address="local",
        num_cpus=8,  # an execution that a test made fail may hold some until the end
        object_store_memory=300 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        runtime_env=cluster.runtime_env(),
        _temp_dir=folder,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def home(tmp_path: Path, tracking_store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for each test, which relative paths of jobs hang from."""
    monkeypatch.setenv("CSLM_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store)
    return tmp_path

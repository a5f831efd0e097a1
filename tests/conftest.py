"""Clusters that tests share: starting one takes longer than most of what is tested on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what may run side by side under `-n 2 --dist loadgroup`: tests of Ray one after the other, others by files.

    A test with an `xdist_group` of its own keeps it.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            needs_ray = "integration" in item.path.parts or "ray_cluster" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("ray" if needs_ray else item.path.name))


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

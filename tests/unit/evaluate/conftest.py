from pathlib import Path

import pytest

from cslm.evaluate.network import Network
from tests.data import tables, untrained


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small tables and an untrained model in `model`."""
    root = tmp_path_factory.mktemp("evaluated")
    tables.write(root)
    untrained.write(root / "model")
    return root


@pytest.fixture(scope="session")
def network(evaluated: Path) -> Network:
    """The untrained model."""
    return Network.load(str(evaluated / "model"), "cpu")

"""Secrets have no way into what is kept or shown: no setting holds one, and no worker is handed one."""

import importlib
import json
import re
from pathlib import Path

import pytest

from cslm import cluster, config, tracking
from cslm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
SECRET = re.compile(r"(^|_)(password|passwd|secret|credentials?|api_key|access_key|auth_token|private_key)($|_)", re.I)


@pytest.mark.parametrize("job", JOBS)
def test_no_setting_is_a_secret(job: str) -> None:
    """Settings are kept beside the output and in MLflow; a secret is named by its environment variable."""
    paths = [path for path, _, _ in config.fields_of(importlib.import_module(f"cslm.apps.{job}").Config)]
    assert [path for path in paths if SECRET.search(path.rpartition(".")[2])] == []


def test_workers_are_handed_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "AWS_ACCESS_KEY_ID": "id-of-a-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_SESSION_TOKEN": "the-session",
        "MLFLOW_TRACKING_PASSWORD": "the-password",
        "RAY_AUTH_TOKEN": "the-token",
        "OPENAI_API_KEY": "the-key",
        "AWS_REGION": "eu-west-1",
    }
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    told = json.dumps(cluster.runtime_env())
    assert [name for name, value in held.items() if value in told] == ["AWS_REGION"]


def test_a_password_in_the_address_of_mlflow_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://admin:the-password@mlflow.example:5000")
    with pytest.raises(ConfigError, match="must hold no password") as refused:
        tracking.tracking_uri()
    assert "the-password" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example:5000")
    assert tracking.tracking_uri() == "https://mlflow.example:5000"

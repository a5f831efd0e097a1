import json
import os
from pathlib import Path
from typing import Any

import pytest

from cslm import cluster
from cslm.cluster import ClusterSection
from cslm.errors import ConfigError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` was called with, on a machine that is on no cluster."""
    calls: list[dict[str, Any]] = []
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "CSLM_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **options: calls.append(options))
    return calls


def test_without_an_address_a_cluster_is_started_here(started: list[dict[str, Any]]) -> None:
    cluster.connect(ClusterSection())
    cluster.connect(ClusterSection(num_cpus=2))
    assert [call["address"] for call in started] == ["local", "local"]
    assert {call["_node_ip_address"] for call in started} == {"127.0.0.1"}
    assert started[0]["num_cpus"] == max(os.cpu_count() or 1, 4)
    assert started[1]["num_cpus"] == 2


def test_a_given_address_wins_over_that_of_the_submitted_job(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster.connect(ClusterSection())
    cluster.connect(ClusterSection(address="10.0.0.2:6379"))
    assert [call["address"] for call in started] == ["10.0.0.1:6379", "10.0.0.2:6379"]
    assert all("num_cpus" not in call for call in started)


def test_workers_get_the_code_and_the_places_of_results(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSLM_HOME", "/results")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    cluster.connect(ClusterSection())
    (folder,) = started[0]["runtime_env"]["py_modules"]
    assert Path(folder, "contracts.py").is_file()
    assert Path(folder).name == "cslm"
    variables = started[0]["runtime_env"]["env_vars"]
    assert (variables["CSLM_HOME"], variables["MLFLOW_TRACKING_URI"]) == ("/results", "http://127.0.0.1:5000")


def test_variables_that_the_submitter_set_are_left_to_it(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = {"runtime_env": {"env_vars": {"CSLM_HOME": "/results", "HF_HUB_OFFLINE": "0"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    monkeypatch.setenv("CSLM_HOME", "/results")
    cluster.connect(ClusterSection())
    assert not {"CSLM_HOME", "HF_HUB_OFFLINE"} & started[0]["runtime_env"]["env_vars"].keys()


def test_a_process_that_is_on_a_cluster_stays_there(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    cluster.connect(ClusterSection(address="10.0.0.2:6379"))
    assert started == []


def test_gpus_are_counted_over_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    assert not cluster.has_gpus()
    nodes.append({"Alive": False, "Resources": {"GPU": 8.0}})
    assert not cluster.has_gpus()
    nodes.append({"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:L4": 1.0}})
    assert [cluster.most_gpus(), cluster.most_gpus("L4"), cluster.most_gpus("H100")] == [2, 2, 0]


def test_gpus_that_an_autoscaler_may_start_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0.0}}])
    monkeypatch.setenv("CSLM_AUTOSCALED_GPUS", "L4:16,H100:32")
    assert cluster.has_gpus()
    assert [cluster.most_gpus(), cluster.most_gpus("L4"), cluster.most_gpus("A100")] == [48, 16, 0]
    for wrong in ("16", "L4=16", "L4:16,", "L4:many"):
        monkeypatch.setenv("CSLM_AUTOSCALED_GPUS", wrong)
        with pytest.raises(ConfigError, match="CSLM_AUTOSCALED_GPUS"):
            cluster.most_gpus()

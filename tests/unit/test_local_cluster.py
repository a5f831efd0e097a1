"""How the local cluster's answers are read; the cluster itself in tests/integration/test_local_cluster.py."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cslm.apps import local_cluster
from cslm.apps.local_cluster import LocalCluster
from cslm.errors import CslmError


class Answers(BaseHTTPRequestHandler):
    """Gives the prepared (status, document) of each path in turn, the last one again and again."""

    prepared: dict[str, list[tuple[int, Any]]]

    def do_GET(self) -> None:
        path = "logs" if self.path.endswith("/logs") else "jobs" if self.path.endswith("/jobs/") else "state"
        answers = type(self).prepared[path]
        code, document = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: Any) -> None:
        pass


class Client:
    """Raises what a test prepares, one submission after the other, then takes the job."""

    def __init__(self, *raised: Exception) -> None:
        self.raised, self.submissions = list(raised), 0

    def submit_job(self, **_: Any) -> None:
        self.submissions += 1
        if self.raised:
            raise self.raised.pop(0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster that is alive and answers what a test prepares; it takes every job."""
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = LocalCluster()
    found.address = f"http://127.0.0.1:{server.server_port}"
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    found._process = alive
    monkeypatch.setattr(LocalCluster, "_client", lambda _: Client())
    monkeypatch.setattr(local_cluster, "_LOOK_EVERY_S", 0.01)
    yield found
    alive.communicate("end")
    server.shutdown()
    server.server_close()


def submit(cluster: LocalCluster, tmp_path: Path, state: list[Any], logs: list[str]) -> tuple[int, list[str]]:
    Answers.prepared = {
        "state": [one if isinstance(one, tuple) else (200, one) for one in state],
        "logs": [(200, {"logs": text}) for text in logs],
        "jobs": [(200, [])],
    }
    said: list[str] = []
    return cluster.submit("job", ["true"], working_dir=str(tmp_path), env={}, say=said.append), said


RUNNING = {"status": "RUNNING", "driver_exit_code": None}
DONE = {"status": "SUCCEEDED", "driver_exit_code": 0}


def test_output_is_told_in_whole_lines_and_each_line_once(cluster: LocalCluster, tmp_path: Path) -> None:
    logs = ["one\ntw", "one\ntwo\n", "one\ntwo\nthree\nthe end has no line break"]
    assert submit(cluster, tmp_path, [*[RUNNING] * 8, DONE], logs) == (
        0,
        ["one", "two", "three", "the end has no line break"],
    )


def test_the_programs_own_exit_code_is_given(cluster: LocalCluster, tmp_path: Path) -> None:
    assert submit(cluster, tmp_path, [{"status": "FAILED", "driver_exit_code": 2}], [""])[0] == 2


def test_a_job_that_never_ran_is_a_failure_with_its_reason(cluster: LocalCluster, tmp_path: Path) -> None:
    state = {"status": "FAILED", "driver_exit_code": None, "message": "runtime_env setup failed"}
    assert submit(cluster, tmp_path, [state], [""]) == (1, ["the job ended as FAILED: runtime_env setup failed"])


def test_a_cluster_that_is_too_busy_is_asked_again(cluster: LocalCluster, tmp_path: Path) -> None:
    assert submit(cluster, tmp_path, [RUNNING, (500, {}), (503, {}), DONE], ["done\n"]) == (0, ["done"])


def test_what_the_cluster_refuses_is_not_asked_again(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(CslmError, match="404"):
        submit(cluster, tmp_path, [(404, {}), DONE], [""])


def test_a_cluster_that_has_ended_is_told(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster._process = None
    with pytest.raises(CslmError, match="must answer at"):
        submit(cluster, tmp_path, [(503, {}), DONE], [""])


def test_a_job_is_submitted_again_when_the_busy_cluster_cut_the_connection(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(ConnectionError("RemoteDisconnected"), RuntimeError("503: ReadTimeout"))
    monkeypatch.setattr(LocalCluster, "_client", lambda _: client)
    assert submit(cluster, tmp_path, [DONE], ["done\n"]) == (0, ["done"])
    assert client.submissions == 3


def test_a_job_that_the_cluster_refuses_is_submitted_once(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(RuntimeError("the working directory is too large"))
    monkeypatch.setattr(LocalCluster, "_client", lambda _: client)
    with pytest.raises(CslmError, match="the working directory is too large"):
        submit(cluster, tmp_path, [DONE], [""])
    assert client.submissions == 1

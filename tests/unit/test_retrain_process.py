"""Processes of a chain: exit codes and last lines, limits of time, and that nothing outlives its owner."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil

from cslm.apps import retrain_process

PYTHON = sys.executable
OWNER = """
import os, sys
from cslm.apps import retrain_process
command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
retrain_process.run(command, dict(os.environ), lambda line: print(line, flush=True), lambda: False, 60)
"""


def run(code: str, is_over: Callable[[], bool] = lambda: False) -> tuple[int, list[str], bool]:
    said: list[str] = []
    found, last, stopped = retrain_process.run([PYTHON, "-c", code], dict(os.environ), said.append, is_over, 0.05)
    assert list(last) == said
    return found, said, stopped


def test_a_process_is_told_by_its_exit_code_and_lines() -> None:
    assert run("print('one'); import sys; print('two', file=sys.stderr); sys.exit(3)") == (3, ["one", "two"], False)


def test_a_process_is_stopped_when_its_time_is_over() -> None:
    code, _, stopped = run("import time; time.sleep(600)", lambda: True)
    assert stopped
    assert code == -signal.SIGTERM


def test_a_process_ends_with_its_owner_however_that_ends() -> None:
    owner = subprocess.Popen([PYTHON, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == []

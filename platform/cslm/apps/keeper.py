"""Run a command so that nothing of it outlives its owner, however the owner ends.

`python -P keeper.py FOLDER COMMAND ...` starts the command and waits. When its standard input closes (its owner is
done, or was killed), or when the command ends, every process that came of the command is ended too, and the command's
folder is removed. Ray's processes start groups and sessions of their own, and some outlive a killed head by minutes; so
the keeper makes itself the one to which orphans below it are given (a "child subreaper" of Linux) and finds them all as
its own descendants.

It imports nothing of the package: it is started by its path, before the package's folder is known to anyone.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_EVERY_S = 0.5
_GRACE_S = 1.0
_LONGEST_S = 30.0


def follow_parent(stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have this process get `stop_signal` when the process that started it ends (Linux; elsewhere nothing happens)."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, stop_signal)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), stop_signal)


def keep(folder: str, command: Sequence[str]) -> int:
    """Run `command` until it ends or standard input closes, end all of it, remove `folder`; returns the exit code."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # The owner's terminal sends its signals to the owner, which closes the pipe when it has seen to its own work.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY_S)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            break
        _reap(child.pid)
    code = child.poll()
    end_descendants()
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if code is None else code


def end_descendants(grace_s: float = _GRACE_S) -> None:
    """End every process below this one: first asked (SIGTERM), after `grace_s` seconds killed."""
    started_s = time.monotonic()
    asked: set[int] = set()
    while True:
        _reap()
        living = [one for one in psutil.Process().children(recursive=True) if _is_running(one)]
        waited_s = time.monotonic() - started_s
        if not living or waited_s > _LONGEST_S:
            return
        for one in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                if waited_s > grace_s:
                    one.kill()
                elif one.pid not in asked:
                    asked.add(one.pid)
                    one.terminate()
        time.sleep(0.05)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _reap(but: int | None = None) -> None:
    """Take the exit codes of ended processes that were given to us; `but` is left for its own Popen."""
    for one in psutil.Process().children():
        if one.pid != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(one.pid, os.WNOHANG)


def _prctl(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], sys.argv[2:]))

"""A process that is started, listened to, stopped when its time is over, and never outlives the one that started it."""

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from cslm.apps import keeper

_GRACE_S = 30.0
_KEPT_LINES = 2000


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    say: Callable[[str], None],
    is_over: Callable[[], bool],
    look_every_s: float,
) -> tuple[int, deque[str], bool]:
    """Exit code, last lines, and whether it was stopped because `is_over` said so, which is asked again and again."""
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for us
        preexec_fn=keeper.follow_parent,
    )
    ended, stopped = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(look_every_s):
            if is_over():
                stopped.set()
                _stop(process)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            say(line.rstrip())
        return process.wait(), said, stopped.is_set()
    finally:
        ended.set()
        watcher.join()
        _stop(process)


def _stop(process: "subprocess.Popen[str]") -> None:
    """Ask a process to end, and end it when it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

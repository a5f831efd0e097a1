"""A process that is started, listened to, stopped when its time is over, and never outlives the one that started it."""

import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from cslm.apps import keeper

_GRACE_S = 30.0
_KEPT_LINES = 2000


def run(
    command: Sequence[str], environment: Mapping[str, str], allowed_s: float, say: Callable[[str], None]
) -> tuple[int, deque[str], bool]:
    """Exit code, last lines, and whether it was stopped because its time was over."""
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
    over = threading.Event()

    def stop() -> None:
        over.set()
        process.send_signal(signal.SIGTERM)

    # A timer cannot wait for longer than some centuries.
    timer = threading.Timer(min(allowed_s, threading.TIMEOUT_MAX), stop)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            say(line.rstrip())
        return process.wait(), said, over.is_set()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""The keeper with plain processes; with a whole Ray cluster in tests/integration/test_local_cluster.py."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cslm.apps import keeper

KEEP = [sys.executable, "-P", keeper.__file__]
# A process tree as wild as Ray's: a child in a session of its own that was orphaned and is deaf to SIGTERM.
WILD = textwrap.dedent("""
    import os, signal, subprocess, sys, time
    deaf = (
        "import signal, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True);"
        "time.sleep(600)"
    )
    middle = (
        "import subprocess, sys, os;"
        f"child = subprocess.Popen([sys.executable, '-c', {deaf!r}], start_new_session=True, stdout=subprocess.PIPE);"
        "child.stdout.readline();"
        "print(child.pid, flush=True);"
        "os._exit(0)"
    )
    found = subprocess.run([sys.executable, "-c", middle], stdout=subprocess.PIPE, text=True)
    print(found.stdout.strip(), flush=True)
    if "--end" in sys.argv:
        sys.exit(7)
    time.sleep(600)
""")


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    give_up_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return condition()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A keeper with a wild tree, and the process id of the orphan in it."""
    (tmp_path / "folder").mkdir()
    process = subprocess.Popen(
        [*KEEP, str(tmp_path / "folder"), sys.executable, "-c", WILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    assert not is_gone(orphan)
    yield process, orphan
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def test_when_its_input_closes_the_whole_tree_is_ended_and_the_folder_removed(
    kept: tuple["subprocess.Popen[str]", int], tmp_path: Path
) -> None:
    process, orphan = kept
    tree = psutil.Process(process.pid).children(recursive=True)
    assert orphan in {one.pid for one in tree}
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert all(is_gone(one.pid) for one in tree)
    assert list(tmp_path.iterdir()) == []


def test_signals_of_the_terminal_are_left_to_the_owner(kept: tuple["subprocess.Popen[str]", int]) -> None:
    process, orphan = kept
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(one)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    assert not is_gone(orphan)


def test_when_the_command_ends_its_orphans_end_and_its_exit_code_is_given(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*KEEP, str(tmp_path), sys.executable, "-c", WILD, "--end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    assert process.wait(timeout=60) == 7
    assert is_gone(orphan)
    process.communicate()


def test_when_the_owner_is_killed_the_tree_is_ended(tmp_path: Path) -> None:
    owner_code = textwrap.dedent("""
        import subprocess, sys
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print(process.pid, process.stdout.readline(), flush=True)
        process.wait()
    """)
    owner = subprocess.Popen(
        [sys.executable, "-c", owner_code, *KEEP, str(tmp_path), sys.executable, "-c", WILD],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.communicate()
    assert wait_for(lambda: all(is_gone(pid) for pid in pids))


def test_a_process_that_follows_its_parent_is_told_of_its_end(tmp_path: Path) -> None:
    told = tmp_path / "told"
    child_code = textwrap.dedent("""
        import pathlib, signal, sys, time
        from cslm.apps import keeper

        def tell(number, frame):
            pathlib.Path(sys.argv[1]).write_text(str(number))
            sys.exit()

        signal.signal(signal.SIGTERM, tell)
        keeper.follow_parent()
        print("ready", flush=True)
        time.sleep(600)
    """)
    parent_code = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, child_code, str(told)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(keeper.__file__).parents[2])},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: told.exists() and told.read_text() == str(int(signal.SIGTERM)))

"""The lease: one holder at a time, whoever comes when, and free again however a holder ended."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cslm import storage
from cslm.languages import lease

HOLD = """
import sys, os
from cslm.languages import lease
with lease.hold(sys.argv[1], 600, "a process"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def claims(home: Path) -> list[str]:
    return storage.list_files(str(home / "lease"), ".json")


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_TRIES", 1)


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), 60, "the first"):
        with pytest.raises(lease.Held, match="found the first by process"), lease.hold(str(tmp_path), 60, "second"):
            pass
        assert len(claims(tmp_path)) == 1
    assert claims(tmp_path) == []
    with lease.hold(str(tmp_path), 60, "the second"):
        pass


def test_it_is_free_when_its_process_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(lease.Held), lease.hold(str(tmp_path), 60, "second"):
        pass
    process.kill()
    process.wait()
    assert len(claims(tmp_path)) == 1
    with lease.hold(str(tmp_path), 60, "second"):
        assert len(claims(tmp_path)) == 1


def test_that_of_another_machine_ends_with_its_time(tmp_path: Path) -> None:
    elsewhere = {**lease._me(), "host": "elsewhere", "purpose": "a tick", "until_s": time.time() + 60}
    storage.write_json(str(tmp_path / "lease" / "other.json"), elsewhere)
    with pytest.raises(lease.Held, match="a tick by process"), lease.hold(str(tmp_path), 60, "second"):
        pass
    storage.write_json(str(tmp_path / "lease" / "other.json"), {**elsewhere, "until_s": time.time() - 1})
    with lease.hold(str(tmp_path), 60, "second"):
        pass


def test_a_holder_learns_that_it_ran_out(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), 60, "slow") as held:
        held.check()
        held.renew()
        held._until_s = time.time() - 1
        with pytest.raises(lease.Lost):
            held.check()
        with pytest.raises(lease.Lost):
            held.renew()


def test_it_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), 1.0, "long"):
        (claim,) = claims(tmp_path)
        first = storage.read_json(claim)["until_s"]
        deadline_s = time.monotonic() + 30
        while storage.read_json(claim)["until_s"] == first:
            assert time.monotonic() < deadline_s


def test_of_many_that_begin_together_never_two_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_TRIES", 20)
    inside: list[int] = []
    most: list[int] = []
    held = 0

    def work(number: int) -> None:
        nonlocal held
        try:
            with lease.hold(str(tmp_path), 60, f"worker {number}"):
                inside.append(number)
                most.append(len(inside))
                held += 1
                inside.remove(number)
        except lease.Held:
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert held >= 1
    assert claims(tmp_path) == []

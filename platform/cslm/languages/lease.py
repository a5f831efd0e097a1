"""A lease in storage: of several processes, on any machines, at most one holds it at a time.

Object stores give no locks, but they list what was written before (S3 and Google's do). So whoever wants the lease
writes a claim of its own and then lists all claims: with another living one beside it, it withdraws. Of two holders
each would have listed without seeing the other's claim, so each would have written after the other's listing, which
cannot be. Two that begin together may both withdraw; they try again after a drawn while.

A claim lives as long as it is renewed. One whose process ended on this machine is dead at once; others when their time
is over, for which the clocks of the machines must agree within a few seconds.
"""

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from cslm import storage
from cslm.errors import CslmError

_FOLDER = "lease"
_TRIES = 5
_RENEWALS = 4


class Held(CslmError):
    """Somebody else holds the lease."""


class Lost(CslmError):
    """The lease ran out while it was held: somebody else may hold it now."""


class Lease:
    """A lease that is held."""

    def __init__(self, claim: str, document: dict[str, Any], lasts_s: float) -> None:
        self._claim, self._document, self._lasts_s = claim, document, lasts_s
        self._until_s = float(document["until_s"])

    def check(self) -> None:
        """Raise Lost unless it is still held: to be asked before what cannot be undone."""
        if time.time() >= self._until_s:
            raise Lost(
                f"the lease {self._claim} must be renewed every {self._lasts_s:g} s, found it run out; run again"
            )

    def renew(self) -> None:
        """Hold it for its whole time from now."""
        self.check()
        until_s = time.time() + self._lasts_s
        storage.write_json(self._claim, {**self._document, "until_s": until_s})
        self._until_s = until_s


@contextmanager
def hold(home: str, lasts_s: float, purpose: str) -> Iterator[Lease]:
    """Hold the lease of a folder as long as the block lasts. Raises Held when somebody else does.

    It is renewed by a thread, and free `lasts_s` seconds after this process can no longer do that.
    """
    lease = _claimed(home, lasts_s, purpose)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lasts_s / _RENEWALS):
            try:
                lease.renew()
            except Lost:
                return
            except OSError:
                continue  # storage may come back before the time is over; `check` tells when it does not

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        storage.remove(lease._claim)


def _claimed(home: str, lasts_s: float, purpose: str) -> Lease:
    folder = storage.join(home, _FOLDER)
    other: dict[str, Any] = {}
    for attempt in range(_TRIES):
        document = {**_me(), "purpose": purpose, "until_s": time.time() + lasts_s}
        claim = storage.join(folder, f"{uuid.uuid4().hex}.json")
        storage.write_json(claim, document)
        others = [one for uri, one in _living(folder) if uri != claim]
        if not others:
            return Lease(claim, document, lasts_s)
        storage.remove(claim)
        other = others[0]
        if attempt + 1 < _TRIES:
            time.sleep(random.uniform(0.05, 0.5))
    until = time.strftime("%H:%M:%S", time.localtime(other["until_s"]))
    raise Held(
        f"one process at a time may work in {home}, found {other['purpose']} by process {other['pid']} on "
        f"{other['host']}, which holds it until {until} unless it is renewed; wait for it, or end it"
    )


def _living(folder: str) -> list[tuple[str, dict[str, Any]]]:
    """The claims that count; dead ones are removed."""
    found = []
    for uri in storage.list_files(folder, ".json"):
        try:
            document = storage.read_json(uri)
        except FileNotFoundError:
            continue  # withdrawn meanwhile
        if _is_dead(document):
            storage.remove(uri)
        else:
            found.append((uri, document))
    return found


def _is_dead(document: dict[str, Any]) -> bool:
    if time.time() >= document["until_s"]:
        return True
    mine = _me()
    if (document["host"], document["boot_s"]) != (mine["host"], mine["boot_s"]):
        return False
    try:
        # The same number may be another process by now.
        return bool(abs(psutil.Process(document["pid"]).create_time() - document["started_s"]) > 1)
    except psutil.NoSuchProcess:
        return True


def _me() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "boot_s": round(psutil.boot_time()),
        "pid": os.getpid(),
        "started_s": process.create_time(),
    }

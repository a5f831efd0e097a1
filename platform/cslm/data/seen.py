"""What came before in a stream, in 16 bytes each: ids that come twice are found in corpora of any size."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class Seen:
    """Which texts came before: sorted runs of 128-bit digests, merged when as long as their elder."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray[Any, Any]] = []

    def add(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text was seen before, in an earlier call or earlier in this one."""
        if not texts:
            return []
        data = b"".join(hashlib.blake2b(one.encode(), digest_size=16).digest() for one in texts)
        digests = np.frombuffer(data, "S16")
        # numpy's bytes end at trailing zeros; two digests that differ only there are one in 2^120.
        unique, first = np.unique(digests, return_index=True)
        repeated = np.ones(len(texts), bool)
        repeated[first] = False
        for run in self._runs:
            place = np.searchsorted(run, unique)
            found = run[np.minimum(place, len(run) - 1)] == unique
            repeated[first[found]] = True
        self._runs.append(unique)
        while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]):
            self._runs[-2:] = [np.unique(np.concatenate(self._runs[-2:]))]
        return [bool(flag) for flag in repeated]

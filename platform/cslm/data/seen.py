"""What came before in a stream, in 16 bytes each: ids that come twice are found in corpora of any size."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Seen:
    """Which texts came before: sorted runs of 128-bit digests, merged when as long as their elder."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.bytes_]] = []

    def add(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text was seen before, in an earlier call or earlier in this one."""
        if not texts:
            return []
        unique, first = np.unique(_digests(texts), return_index=True)
        repeated = np.ones(len(texts), bool)
        repeated[first] = self._found(unique)
        self._runs.append(unique)
        while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]):
            self._runs[-2:] = [np.unique(np.concatenate(self._runs[-2:]))]
        return repeated.tolist()

    def known(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text was added before."""
        return self._found(_digests(texts)).tolist() if texts and self._runs else [False] * len(texts)

    def _found(self, digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        found = np.zeros(len(digests), bool)
        for run in self._runs:
            place = np.searchsorted(run, digests)
            found |= run[np.minimum(place, len(run) - 1)] == digests
        return found


def _digests(texts: Sequence[str]) -> NDArray[np.bytes_]:
    data = b"".join(hashlib.blake2b(one.encode(), digest_size=16).digest() for one in texts)
    # numpy's bytes end at trailing zeros; two digests that differ only there are one in 2^120.
    return np.frombuffer(data, "S16")

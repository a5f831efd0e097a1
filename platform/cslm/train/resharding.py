"""Fragments that N ranks saved, read as any other cut of the same parameters.

Each rank of the run that goes on asks for the stretches that it holds and reads them out of the files that overlap
them, so no rank ever reads more than its own share.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cslm import storage
from cslm.errors import CheckpointError
from cslm.train.tensor_file import Window


@dataclass(frozen=True, order=True)
class Piece:
    """`length` values of a parameter from `start` on lie at byte `place` of a rank's file."""

    start: int
    length: int
    rank: int = 0
    place: int = 0
    dtype: str = "float32"


def overlaps(pieces: Sequence[Piece], start: int, length: int) -> list[tuple[Piece, int, int, int]]:
    """How to put together `length` values from `start` on: (piece, first value in it, count, where they go).

    `pieces` are sorted and may overlap, in any way as long as nothing is missing. Raises CheckpointError when
    something is.
    """
    found, at, end = [], start, start + length
    starts = [piece.start for piece in pieces]
    while at < end:
        reaching = [p for p in pieces[: bisect_right(starts, at)] if p.start + p.length > at]
        if not reaching:
            raise CheckpointError(f"values {start}..{end} must have been saved, found none of value {at}")
        piece = max(reaching, key=lambda p: p.start + p.length)
        count = min(end, piece.start + piece.length) - at
        found.append((piece, at - piece.start, count, at - start))
        at += count
    return found


class Reshard:
    """Reads the fragments in a step folder by parameter and stretch; `markers` are those of all its ranks."""

    def __init__(self, folder: str, markers: Sequence[Mapping[str, Any]]) -> None:
        self._windows = [Window(storage.join(folder, marker["file"]), marker["bytes"]) for marker in markers]
        self._pieces: dict[str, dict[str, list[Piece]]] = {}
        self._scalars: dict[str, dict[str, float]] = {}
        for rank, marker in enumerate(markers):
            self._scalars.update(marker["scalars"])
            for name, key, start, length, dtype, place in marker["fragments"]:
                keys = self._pieces.setdefault(name, {})
                keys.setdefault(key, []).append(Piece(start, length, rank, place, dtype))
        for keys in self._pieces.values():
            for pieces in keys.values():
                pieces.sort()

    def states_of(self, name: str) -> set[str]:
        """Keys of what was saved of a parameter: its master and its states."""
        return set(self._pieces.get(name, ()))

    def scalars_of(self, name: str) -> dict[str, float]:
        """States of a parameter that are one number."""
        return self._scalars.get(name, {})

    def read(self, name: str, key: str, start: int, values: torch.Tensor) -> None:
        """Fill `values` [length] with the saved ones from `start` on. Raises CheckpointError when some are missing."""
        pieces = self._pieces[name][key]
        try:
            found = overlaps(pieces, start, values.numel())
        except CheckpointError as error:
            raise CheckpointError(f"{key} of {name}: {error}") from error
        for piece, first, count, into in found:
            dtype = getattr(torch, piece.dtype)
            assert isinstance(dtype, torch.dtype)
            place = piece.place + first * dtype.itemsize
            self._windows[piece.rank].read_into(values[into : into + count], place, dtype)

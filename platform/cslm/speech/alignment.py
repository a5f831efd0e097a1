"""Words in frames -> words in units: the frames of an utterance are counted out over its runs of equal codes.

A word begins where it begins, a run ends where it ends. A boundary that falls inside a run goes to the nearer edge of
the run, and the same frame always to the same edge, so that the units of all words and of what lies between them are
those of the utterance, each once and in order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Stretch:
    """Units `start` to `end` of an utterance: those of word number `word`, or of a gap where that is None."""

    word: int | None
    start: int
    end: int


def unit_bounds(durations: ArrayLike, frames: ArrayLike) -> NDArray[np.int64]:
    """The unit that each boundary frame stands before: 0 .. len(durations), 0 for frame 0 and the last for the end.

    `durations` (U,) are the frames of each unit, `frames` (N,) are boundaries within 0 .. their sum. In the middle of a
    run the earlier edge is taken.
    """
    edges = np.concatenate(([0], np.cumsum(np.asarray(durations, np.int64))))
    wanted = np.asarray(frames, np.int64)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() <= edges[-1]:
        raise ValueError(f"boundaries must lie within 0 .. {edges[-1]}, found {wanted.min()} .. {wanted.max()}")
    after = np.searchsorted(edges, wanted)  # the first edge that is not before the boundary
    before = np.maximum(after - 1, 0)
    return np.where(edges[after] - wanted < wanted - edges[before], after, before) if len(edges) > 1 else after


def stretches(durations: ArrayLike, words: Sequence[Mapping[str, Any]]) -> list[Stretch]:
    """The units of each word and of each gap, in order: together all units, each once.

    `words` have `start_frame` and `end_frame` and stand in order (table alignments). Every word has a stretch, which is
    empty where no unit is nearer to it than to its neighbours; gaps have units.
    """
    frames = [word[name] for word in words for name in ("start_frame", "end_frame")]
    bounds = unit_bounds(durations, frames).tolist()
    found: list[Stretch] = []
    at = 0
    for number in range(len(words)):
        start, end = bounds[2 * number], bounds[2 * number + 1]
        if start > at:
            found.append(Stretch(None, at, start))
        found.append(Stretch(number, start, end))
        at = end
    total = len(np.atleast_1d(np.asarray(durations)))
    if total > at:
        found.append(Stretch(None, at, total))
    return found

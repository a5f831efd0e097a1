"""Long recordings -> windows that a tokenizer can take, and the windows' codes -> the codes of the whole.

Windows overlap, and of each only the middle is kept: what lies near a cut has its true neighbours in the next window.
They start at multiples of the tokenizer's hop, so that frames of all windows lie on one grid, and they are equally
long, so that the last one is not a remnant and all of them fit into a batch without padding. A tokenizer whose codes
depend on less than half of the overlap to either side gives the codes of the whole to the bit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cslm.errors import CheckpointError

# Enters the fingerprints of tokenizers that have a longest window: another overlap gives other codes.
OVERLAP_S = 4.0


@dataclass(frozen=True)
class Window:
    """Samples `start` to `end` of a recording, of whose frames those from `first` on and before `last` are kept.

    Frames are counted within the window. In the last window of a recording `last` is None: all are kept to the end.
    """

    start: int
    end: int
    first: int
    last: int | None


def plan(num_samples: int, hop: int, longest: int, overlap: int) -> list[Window]:
    """Cover `num_samples` with windows of at most `longest` samples that share at least `overlap` with the next.

    `hop` is the number of samples between frames. A recording that is short enough is one window. The overlap is at
    most half of a window. Every frame of the recording is kept from exactly one window.
    """
    if num_samples <= longest:
        return [Window(0, num_samples, 0, None)]
    hops, longest = -(-num_samples // hop), longest // hop
    if longest < 4:
        raise ValueError(f"a window must hold at least 4 frames, found {longest}")
    overlap = min(-(-overlap // hop), longest // 2)
    count = -(-(hops - overlap) // (longest - overlap))
    length = -(-(hops + (count - 1) * overlap) // count)
    starts = [i * (hops - length) // (count - 1) for i in range(count)]
    seams = [0, *((start + length + following) // 2 for start, following in itertools.pairwise(starts))]
    lasts = [*(seam - start for seam, start in zip(seams[1:], starts, strict=False)), None]
    return [
        Window(start * hop, min((start + length) * hop, num_samples), seam - start, last)
        for start, seam, last in zip(starts, seams, lasts, strict=True)
    ]


def stitch(windows: Sequence[Window], codes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The codes (F,) of a recording from those of its windows.

    Raises CheckpointError when a window has too few of them, which means that the tokenizer's frames are not
    `sample_rate_hz / frame_rate_hz` samples apart.
    """
    if len(windows) == 1:
        return codes[0]
    for window, found in zip(windows, codes, strict=True):
        needed = window.first + 1 if window.last is None else window.last
        if len(found) < needed:
            raise CheckpointError(
                f"a tokenizer with a max_window_s must give a code for every sample_rate_hz / frame_rate_hz samples, "
                f"found {len(found)} codes where at least {needed} are due in {window.end - window.start} samples; "
                "mend its frame_rate_hz, or set max_window_s to None"
            )
    return np.concatenate([found[window.first : window.last] for window, found in zip(windows, codes, strict=True)])

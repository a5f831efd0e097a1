"""The order in which training sees packed rows: a pure function of (rows of each block, seed, epoch).

Rows lie in blocks (files). In every epoch the blocks are shuffled, cut into windows of at least `window_rows` rows, and
the rows of a window are shuffled. So what is held in memory is bounded by a window, the place of any step is found at
once, and neither the number of ranks nor interruptions have a part in it, nor when or where the table was written: the
same corpus taken in twice is learned in one order. A table of one window is shuffled whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Window:
    """A stretch of an epoch: its blocks as shuffled, the place of its first row in the epoch, the order of its rows.

    `order` [num_rows] holds places among the rows of the blocks laid one behind the other, `rows` the same rows by
    their numbers in the whole table.
    """

    epoch: int
    number: int
    blocks: tuple[int, ...]
    start: int
    order: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class RowOrder:
    """Places of rows in training -> windows and rows in them."""

    def __init__(self, rows_of_block: Sequence[int], *, seed: int, window_rows: int) -> None:
        self._rows = np.asarray(rows_of_block, np.int64)
        self._seed = seed
        self._window_rows = window_rows
        self.num_rows = int(self._rows.sum())
        self._epoch = -1
        self._blocks: list[tuple[int, ...]] = []
        self._starts = np.empty(0, np.int64)

    def window_of(self, place: int) -> tuple[int, int]:
        """Epoch and number of the window in which the row at `place`, counted over all epochs, lies."""
        epoch, within = divmod(place, self.num_rows)
        self._lay_out(epoch)
        return epoch, int(np.searchsorted(self._starts, within, "right")) - 1

    def window(self, epoch: int, number: int) -> Window:
        """A window by its number in an epoch."""
        self._lay_out(epoch)
        blocks = self._blocks[number]
        generator = np.random.default_rng([self._seed, epoch, number + 1])
        firsts = np.cumsum(self._rows) - self._rows
        laid = np.concatenate([firsts[block] + np.arange(self._rows[block]) for block in blocks])
        order = generator.permutation(len(laid))
        return Window(epoch, number, blocks, int(self._starts[number]), order, laid[order])

    def after(self, epoch: int, number: int) -> tuple[int, int]:
        """The window behind a window."""
        self._lay_out(epoch)
        return (epoch, number + 1) if number + 1 < len(self._blocks) else (epoch + 1, 0)

    def _lay_out(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        shuffled = np.random.default_rng([self._seed, epoch, 0]).permutation(len(self._rows))
        windows: list[list[int]] = []
        held = self._window_rows
        for block in shuffled.tolist():
            if held >= self._window_rows:
                windows.append([])
                held = 0
            windows[-1].append(block)
            held += int(self._rows[block])
        sizes = [int(self._rows[window].sum()) for window in windows]
        # In a window their order is of no account: sorted, a table of one window is read once for all epochs.
        self._blocks = [tuple(sorted(window)) for window in windows]
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self._epoch = epoch

"""From packed rows to batches: which rows belong to a step is a pure function of (data, seed, step).

`data.row_order` says which rows a step takes over all ranks; they are dealt to the ranks in turn. It depends neither on
the number of ranks nor on where a run was interrupted, so going on at step N costs nothing. What the next steps need is
read and laid out by threads while the model computes.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cslm.data.packed_table import PackedTable, Row, Rows
from cslm.data.row_order import RowOrder, Window
from cslm.errors import ConfigError
from cslm.lm.attention import SegmentIndex, VarlenIndex, segment_index, varlen_index

# Label of positions that carry no loss (PyTorch's default `ignore_index`).
IGNORE = -100
# Rows that are shuffled together, in tokens: 160 MB a window, and each rank holds two or three.
_WINDOW_TOKENS = 32_000_000
_STEPS_AHEAD = 2
_WINDOWS = 3
KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Targets:
    """The positions of a batch that carry loss: `places` [N] in the flattened batch, `ids` [N], `groups` [N]."""

    places: torch.Tensor
    ids: torch.Tensor
    groups: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """One micro batch: B rows of T tokens.

    `input_ids`, `position_ids` (restarting at every segment) and `labels` (already shifted: the label at t is the
    token at t + 1, IGNORE where there is no loss) are [B, T]; `group_ids` [B, T] number the task of each position.
    `segments` and `targets` say where segments and targets lie; see `located`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    group_ids: torch.Tensor
    segments: SegmentIndex | VarlenIndex | None = None
    targets: Targets | None = None

    @property
    def num_targets(self) -> int:
        """Positions that carry loss."""
        return int((self.labels != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.group_ids >= 0).sum())

    def located(self, *, varlen: bool = False) -> "Batch":
        """The batch with `segments` and `targets`, found on the CPU: on a GPU their number would have to be waited for.

        `varlen`: segments as PyTorch's variable-length attention takes them.
        """
        if self.targets is not None:
            return self
        places = torch.nonzero(self.labels.reshape(-1) != IGNORE)[:, 0]
        targets = Targets(places, self.labels.reshape(-1)[places], self.group_ids.reshape(-1)[places])
        segments = varlen_index(self.position_ids) if varlen else segment_index(self.position_ids)
        return replace(self, segments=segments, targets=targets)

    def to(self, device: torch.device, *, varlen: bool = False) -> "Batch":
        """What a model reads of the located batch on another device; `labels` and `group_ids` stay where they are."""
        batch = self.located(varlen=varlen)
        if device.type == "cpu":
            return batch
        assert batch.segments is not None
        assert batch.targets is not None
        targets = Targets(
            *(_move(one, device) for one in (batch.targets.places, batch.targets.ids, batch.targets.groups))
        )
        return replace(
            batch,
            input_ids=_move(batch.input_ids, device),
            position_ids=_move(batch.position_ids, device),
            segments=batch.segments.map(lambda tensor: _move(tensor, device)),
            targets=targets,
        )


def _move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU from pinned memory, without waiting for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class PackedFeed:
    """Batches of one rank from a packed table, of which a window at a time is in memory.

    Every rank gets the same number of micro batches, whatever the number of ranks: one that has fewer rows than others
    gets blank ones, which carry no loss. `vocabulary` is the hash of the model's vocabulary; raises CheckpointError
    when the rows were packed for another, ConfigError when there are fewer rows a step than ranks.
    """

    def __init__(
        self,
        folder: str,
        *,
        row_length: int,
        rows_per_step: int,
        micro_batch_rows: int,
        rank: int,
        world_size: int,
        seed: int,
        pad_id: int,
        vocabulary: str,
        window_tokens: int = _WINDOW_TOKENS,
    ) -> None:
        if rows_per_step < world_size:
            raise ConfigError(f"train.rows_per_step: must be at least the {world_size} workers, found {rows_per_step}")
        self._table = PackedTable(folder, vocabulary)
        self.groups = self._table.groups
        self._order = RowOrder(
            self._table.rows_of_file,
            seed=seed,
            window_rows=max(1, window_tokens // row_length),
        )
        self._row_length, self._rows_per_step = row_length, rows_per_step
        self._rows_a_rank = -(-rows_per_step // world_size)
        self._micro_batch_rows = min(micro_batch_rows, self._rows_a_rank)
        self._rank, self._world_size, self._pad_id = rank, world_size, pad_id
        # One thread lays out batches, another reads windows, which takes long where the store is far.
        self._layer = ThreadPoolExecutor(1, "feed")
        self._reader = ThreadPoolExecutor(1, "read")
        self._lock = threading.Lock()
        self._ahead: dict[int, Future[list[Batch]]] = {}
        self._windows: dict[tuple[int, int], Window] = {}
        self._rows: dict[tuple[int, ...], Future[Rows]] = {}

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return self._order.num_rows

    def rows_of_step(self, step: int) -> npt.NDArray[np.int64]:
        """The rows of a step over all ranks, by their numbers in the table, [rows_per_step].

        A step may reach into the next epoch.
        """
        return np.array([window.rows[place] for window, place in self._places(step)])

    def sources_of(self, row: int) -> dict[str, Any]:
        """Where a row of the table lies and the sources of its examples (`PackedTable.sources_of`)."""
        return self._table.sources_of(row)

    def batches(self, step: int) -> list[Batch]:
        """The micro batches of this rank for a step; those of the next steps are begun."""
        wanted = range(step, step + 1 + _STEPS_AHEAD)
        self._ahead = {
            number: self._ahead.get(number) or self._layer.submit(self._lay_out, number) for number in wanted
        }
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """End the threads."""
        for pool in (self._layer, self._reader):
            pool.shutdown(cancel_futures=True)

    def _lay_out(self, step: int) -> list[Batch]:
        mine = self._places(step)[self._rank :: self._world_size]
        rows: list[Row | None] = [self._rows_of(window).row(int(window.order[place])) for window, place in mine]
        rows += [None] * (self._rows_a_rank - len(rows))
        size = self._micro_batch_rows
        return [self._collate(rows[start : start + size]) for start in range(0, self._rows_a_rank, size)]

    def _places(self, step: int) -> list[tuple[Window, int]]:
        """The rows of a step over all ranks: a window, and a place in it."""
        found = []
        with self._lock:
            for place in range(step * self._rows_per_step, (step + 1) * self._rows_per_step):
                window = self._window(self._order.window_of(place))
                found.append((window, place % self.num_rows - window.start))
        return found

    def _window(self, key: tuple[int, int]) -> Window:
        return _latest(self._windows, key, lambda: self._order.window(*key))

    def _rows_of(self, window: Window) -> Rows:
        """The rows of a window; the next one's are begun to be read."""
        with self._lock:
            following = self._window(self._order.after(window.epoch, window.number))
            for blocks in (following.blocks, window.blocks):
                asked = _latest(self._rows, blocks, partial(self._reader.submit, self._table.read, blocks))
        return asked.result()

    def _collate(self, rows: Sequence[Row | None]) -> Batch:
        shape = (len(rows), self._row_length)
        input_ids_BT = np.full(shape, self._pad_id, np.int64)
        labels_BT = np.full(shape, IGNORE, np.int64)
        # Padding is a segment of its own behind the others, so that no real token attends to it.
        position_ids_BT = np.zeros(shape, np.int64)
        group_ids_BT = np.full(shape, -1, np.int64)
        for place, row in enumerate(rows):
            size = 0 if row is None else len(row.input_ids)
            position_ids_BT[place, size:] = np.arange(self._row_length - size)
            if row is None:
                continue
            ends = np.cumsum(row.lengths)
            input_ids_BT[place, :size] = row.input_ids
            group_ids_BT[place, :size] = np.repeat(row.groups, row.lengths)
            position_ids_BT[place, :size] = np.arange(size) - np.repeat(ends - row.lengths, row.lengths)
            labels_BT[place, : size - 1] = np.where(row.loss_mask[1:], row.input_ids[1:], IGNORE)
            # The last token of a segment predicts nothing: what follows is another example.
            labels_BT[place, ends - 1] = IGNORE
        return Batch(
            torch.from_numpy(input_ids_BT),
            torch.from_numpy(position_ids_BT),
            torch.from_numpy(labels_BT),
            torch.from_numpy(group_ids_BT),
        )


def _latest(kept: dict[KeyT, ValueT], key: KeyT, make: Callable[[], ValueT]) -> ValueT:
    """What is kept under a key, made when it is not there. Kept are the windows that end, begin and come next."""
    kept[key] = kept.pop(key) if key in kept else make()
    while len(kept) > _WINDOWS:
        del kept[next(iter(kept))]
    return kept[key]

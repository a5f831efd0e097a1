"""From packed rows to batches: which rows belong to a step is a pure function of (data, seed, step).

The order of an epoch is a permutation drawn from the seed, and the rows of a step are dealt to the ranks in turn. It
depends neither on the number of ranks nor on where a run was interrupted, so going on at step N costs nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cslm import contracts, storage
from cslm.errors import ConfigError

# Label of positions that carry no loss (PyTorch's default `ignore_index`).
IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """One micro batch: B rows of T tokens.

    `input_ids`, `position_ids` (restarting at every segment) and `labels` (already shifted: the label at t is the
    token at t + 1, IGNORE where there is no loss) are [B, T]; `group_ids` [B, T] number the task of each position.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    group_ids: torch.Tensor

    @property
    def num_targets(self) -> int:
        """Positions that carry loss."""
        return int((self.labels != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.group_ids >= 0).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = (tensor.to(device) for tensor in (self.input_ids, self.position_ids, self.labels, self.group_ids))
        return Batch(*moved)


class PackedFeed:
    """Batches of one rank from a packed table, which is held in memory as Arrow columns."""

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
    ) -> None:
        if rows_per_step % world_size:
            raise ConfigError(
                f"train.rows_per_step: must be a multiple of the {world_size} workers, found {rows_per_step}"
            )
        self._table = contracts.load("packed").check(storage.read_table(folder), folder).combine_chunks()
        self.groups = sorted({task for row in self._table.column("segment_tasks").to_pylist() for task in row})
        self._group_numbers = {task: number for number, task in enumerate(self.groups)}
        self._row_length, self._rows_per_step = row_length, rows_per_step
        self._micro_batch_rows = min(micro_batch_rows, rows_per_step // world_size)
        self._rank, self._world_size, self._seed, self._pad_id = rank, world_size, seed, pad_id
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return int(self._table.num_rows)

    def rows_of_step(self, step: int) -> npt.NDArray[np.int64]:
        """The rows of a step over all ranks, [rows_per_step]; a step may cross into the next epoch."""
        places = np.arange(step * self._rows_per_step, (step + 1) * self._rows_per_step)
        return np.array([self._row_at(int(place)) for place in places])

    def batches(self, step: int) -> list[Batch]:
        """The micro batches of this rank for a step."""
        mine = self.rows_of_step(step)[self._rank :: self._world_size]
        size = self._micro_batch_rows
        return [self._collate(mine[start : start + size]) for start in range(0, len(mine), size)]

    def _row_at(self, place: int) -> int:
        epoch, within = divmod(place, self.num_rows)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self.num_rows)
        return int(self._order[within])

    def _collate(self, rows: npt.NDArray[np.int64]) -> Batch:
        shape = (len(rows), self._row_length)
        input_ids_BT = np.full(shape, self._pad_id, np.int64)
        labels_BT = np.full(shape, IGNORE, np.int64)
        # Padding is a segment of its own behind the others, so that no real token attends to it.
        position_ids_BT = np.zeros(shape, np.int64)
        group_ids_BT = np.full(shape, -1, np.int64)
        for place, row in enumerate(self._table.take(rows).to_pylist()):
            start = 0
            tokens, mask = np.asarray(row["input_ids"]), np.asarray(row["loss_mask"], bool)
            for length, task in zip(row["segment_lengths"], row["segment_tasks"], strict=True):
                end = start + length
                input_ids_BT[place, start:end] = tokens[start:end]
                position_ids_BT[place, start:end] = np.arange(length)
                group_ids_BT[place, start:end] = self._group_numbers[task]
                # The last token of a segment predicts nothing: what follows is another example.
                wanted = np.where(mask[start + 1 : end], tokens[start + 1 : end], IGNORE)
                labels_BT[place, start : end - 1] = wanted
                start = end
            position_ids_BT[place, start:] = np.arange(self._row_length - start)
        return Batch(*(torch.from_numpy(array) for array in (input_ids_BT, position_ids_BT, labels_BT, group_ids_BT)))

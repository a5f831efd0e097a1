"""From packed rows to batches: which rows belong to a step is a pure function of (data, seed, step).

The order of an epoch is a permutation drawn from the seed, and the rows of a step are dealt to the ranks in turn. It
depends neither on the number of ranks nor on where a run was interrupted, so going on at step N costs nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cslm import contracts, storage
from cslm.data import packed_rows
from cslm.errors import ConfigError
from cslm.lm.attention import SegmentIndex, VarlenIndex, segment_index, varlen_index

# Label of positions that carry no loss (PyTorch's default `ignore_index`).
IGNORE = -100
# Sources are for people who look a row up; training does not read them.
_COLUMNS = ("input_ids", "loss_mask", "segment_lengths", "segment_tasks")


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
    """Batches of one rank from a packed table, which is held in memory as flat columns: 5 bytes a token.

    `vocabulary` is the hash of the model's vocabulary; raises CheckpointError when the rows were packed for another.
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
    ) -> None:
        if rows_per_step % world_size:
            raise ConfigError(
                f"train.rows_per_step: must be a multiple of the {world_size} workers, found {rows_per_step}"
            )
        table = _read(folder, vocabulary)
        self._num_rows = int(table.num_rows)
        # Where each row begins in the flat columns of tokens and of segments, [num_rows + 1].
        self._row_starts, self._input_ids = _flat(table.column("input_ids"))
        self._loss_mask = _flat(table.column("loss_mask"))[1]
        self._segment_starts, self._segment_lengths = _flat(table.column("segment_lengths"))
        tasks = pc.list_flatten(table.column("segment_tasks")).combine_chunks().dictionary_encode()
        names = tasks.dictionary.to_pylist()
        self.groups = sorted(names)
        places = np.array([self.groups.index(name) for name in names], np.int64)
        self._segment_groups = places[tasks.indices.to_numpy()]
        self._row_length, self._rows_per_step = row_length, rows_per_step
        self._micro_batch_rows = min(micro_batch_rows, rows_per_step // world_size)
        self._rank, self._world_size, self._seed, self._pad_id = rank, world_size, seed, pad_id
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return self._num_rows

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
        for place, row in enumerate(rows):
            first, last = self._segment_starts[row], self._segment_starts[row + 1]
            lengths, groups = self._segment_lengths[first:last], self._segment_groups[first:last]
            tokens = self._input_ids[self._row_starts[row] : self._row_starts[row + 1]]
            mask = self._loss_mask[self._row_starts[row] : self._row_starts[row + 1]]
            size, ends = len(tokens), np.cumsum(lengths)
            input_ids_BT[place, :size] = tokens
            group_ids_BT[place, :size] = np.repeat(groups, lengths)
            position_ids_BT[place, :size] = np.arange(size) - np.repeat(ends - lengths, lengths)
            position_ids_BT[place, size:] = np.arange(self._row_length - size)
            labels_BT[place, : size - 1] = np.where(mask[1:], tokens[1:], IGNORE)
            # The last token of a segment predicts nothing: what follows is another example.
            labels_BT[place, ends - 1] = IGNORE
        return Batch(
            torch.from_numpy(input_ids_BT),
            torch.from_numpy(position_ids_BT),
            torch.from_numpy(labels_BT),
            torch.from_numpy(group_ids_BT),
        )


def _read(folder: str, vocabulary: str) -> pa.Table:
    files = storage.list_files(folder, ".parquet")
    if not files:
        raise ConfigError(f"{folder} must hold packed rows, found none")
    contract, tables = contracts.load("packed").only(_COLUMNS), []
    for file in files:
        packed_rows.require_vocabulary(file, storage.parquet_schema(file)[0], vocabulary)
        tables.append(contract.check(storage.read_rows(file, _COLUMNS), file))
    return pa.concat_tables(tables)


def _flat(lists: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """A column of lists -> where each list begins in their flat values, [N + 1], and the values."""
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64)
    return starts, pc.list_flatten(lists).to_numpy()

"""Which rows a bad step was made of, told on the terminal and kept in `bad_rows.json` beside the model."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from cslm import storage
from cslm.data.feed import Batch, PackedFeed

FILE = "bad_rows.json"
_MOST_STEPS = 200
_MOST_TOLD = 3


def find(feed: PackedFeed, data_step: int, batches: Sequence[Batch], sums: Sequence[torch.Tensor]) -> list[int]:
    """The rows, by their numbers in the table, of the micro batches whose loss is not finite; all ranks must call.

    All rows of the step where every loss is finite. `sums` are what the engine gave for each of this rank's batches.
    """
    rows = feed.rows_of_step(data_step)
    faulty = torch.zeros(len(rows), dtype=torch.uint8, device=sums[0].device)
    mine = range(len(rows))[dist.get_rank() :: dist.get_world_size()]
    start = 0
    for batch, batch_sums in zip(batches, sums, strict=True):
        stop = start + len(batch.input_ids)
        if not torch.isfinite(batch_sums[0]).all():
            faulty[list(mine[start:stop])] = 1
        start = stop
    dist.all_reduce(faulty, op=dist.ReduceOp.MAX)
    found = [int(row) for row, is_faulty in zip(rows, faulty.tolist(), strict=True) if is_faulty]
    return found or [int(row) for row in rows]


class BadRows:
    """Keeps and tells what is wrong with steps; only rank 0 does."""

    def __init__(self, output: str, feed: PackedFeed) -> None:
        self._uri, self._feed = storage.join(output, FILE), feed

    def __call__(self, step: int, reason: str, rows: Sequence[int]) -> None:
        """Note a bad step, counted from 1. The same step again, in a run that goes on, takes the first one's place."""
        if dist.get_rank() != 0:
            return
        named = [self._feed.sources_of(row) for row in rows]
        known: list[dict[str, Any]] = storage.read_json(self._uri) if storage.exists(self._uri) else []
        entry = {"step": step, "reason": reason, "rows": named}
        storage.write_json(self._uri, [*(one for one in known if one["step"] != step), entry][-_MOST_STEPS:])
        told = ", ".join(f"row {row['row']} of {storage.name(row['file'])}" for row in named[:_MOST_TOLD])
        more = f" and {len(named) - _MOST_TOLD} more" if len(named) > _MOST_TOLD else ""
        print(f"step {step}: {reason}; {told}{more}: {self._uri}", flush=True)

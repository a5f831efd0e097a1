"""A packed table as training reads it: what its files hold, and some of them at a time as flat columns."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.data import packed_rows
from cslm.errors import ConfigError

# Sources are for people who look a row up; training does not read them.
_COLUMNS = ("input_ids", "loss_mask", "segment_lengths", "segment_tasks")
# Footers that are asked for at a time: each waits for the store, hardly any for the processor.
_FOOTERS_AT_A_TIME = 16


@dataclass(frozen=True)
class Row:
    """One packed row: its tokens and loss mask [T], and length and group of each of its segments [S]."""

    input_ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int64]


class Rows:
    """Some rows in memory as flat columns: 5 bytes a token."""

    def __init__(self, table: pa.Table, groups: Sequence[str]) -> None:
        self._starts, self._input_ids = _flat(table.column("input_ids"))
        self._loss_mask = _flat(table.column("loss_mask"))[1]
        self._segment_starts, self._lengths = _flat(table.column("segment_lengths"))
        tasks = pc.list_flatten(table.column("segment_tasks")).combine_chunks().dictionary_encode()
        places = np.array([groups.index(name) for name in tasks.dictionary.to_pylist()], np.int64)
        self._groups = places[tasks.indices.to_numpy()]

    def row(self, number: int) -> Row:
        """One row, as views."""
        tokens = slice(self._starts[number], self._starts[number + 1])
        segments = slice(self._segment_starts[number], self._segment_starts[number + 1])
        return Row(self._input_ids[tokens], self._loss_mask[tokens], self._lengths[segments], self._groups[segments])


class PackedTable:
    """The files of a packed table: `files`, rows of each in `rows_of_file`, `groups`, the names of all tasks in it.

    Raises ConfigError when the folder holds no rows, CheckpointError when they are not in the ids of the vocabulary
    with the hash `vocabulary`.
    """

    def __init__(self, folder: str, vocabulary: str) -> None:
        self.files = storage.list_files(folder, ".parquet")
        self._vocabulary = vocabulary
        with ThreadPoolExecutor(_FOOTERS_AT_A_TIME) as threads:
            found = list(threads.map(self._look, self.files))
        self.rows_of_file = [rows for rows, _ in found]
        self.groups = sorted(set().union(*(groups for _, groups in found)))
        self._ends = list(accumulate(self.rows_of_file))
        if not self._ends or not self._ends[-1]:
            raise ConfigError(f"{folder} must hold packed rows, found none")

    def read(self, numbers: Sequence[int]) -> Rows:
        """The rows of some files, one file behind the other."""
        contract = contracts.load("packed").only(_COLUMNS)
        tables = [
            contract.check(storage.read_rows(self.files[number], _COLUMNS), self.files[number]) for number in numbers
        ]
        return Rows(pa.concat_tables(tables), self.groups)

    def first_row(self, number: int) -> int:
        """The row of the table with which a file begins."""
        return self._ends[number] - self.rows_of_file[number]

    def sources_of(self, row: int) -> dict[str, Any]:
        """Where a row of the table lies, `file` and `row` in it, and the `sources` of its examples, for people."""
        number = bisect_right(self._ends, row)
        file, place = self.files[number], row - self.first_row(number)
        table = storage.read_rows(file, ["segment_tasks", "segment_sources"], place, place + 1).to_pylist()[0]
        named = zip(table["segment_tasks"], table["segment_sources"], strict=True)
        return {"file": file, "row": place, "sources": [f"{task} {source}" for task, source in named]}

    def _look(self, file: str) -> tuple[int, set[str]]:
        schema, rows = storage.parquet_schema(file)
        packed_rows.require_vocabulary(file, schema, self._vocabulary)
        counts = (schema.metadata or {}).get(packed_rows.COUNTS_KEY)
        if counts is not None:
            return rows, set(json.loads(counts)["groups"])
        tasks = storage.read_rows(file, ["segment_tasks"]).column("segment_tasks")
        return rows, set(pc.unique(pc.list_flatten(tasks)).to_pylist())


def _flat(lists: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """A column of lists -> where each list begins in their flat values, [N + 1], and the values."""
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64)
    return starts, pc.list_flatten(lists).to_numpy()

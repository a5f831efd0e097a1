"""A chunk of table rows -> the examples that an epoch takes of it, dealt to the buckets that are packed on their own.

An example's bucket follows from a hash of its name, so it does not depend on how the tables were cut into chunks.
"""

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cslm import storage
from cslm.data import joins, sources
from cslm.data.mixture import Draw, task_of
from cslm.data.sources import DataSection, Piece
from cslm.lm import text_tokenizer, vocabulary
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken
from cslm.lm.examples import Example, ExampleBuilder, SetAside, groups_of

# What packing plans on: small, and enough to name an example. `part` numbers the examples that one row gives.
NAME_COLUMNS = ("group", "source", "copy", "part", "length")
LIST_COLUMNS = ("input_ids", "loss_mask")
SCHEMA = pa.schema(
    {
        "group": pa.string(),
        "source": pa.string(),
        "copy": pa.int32(),
        "part": pa.int32(),
        "length": pa.int32(),
        "input_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.uint8()),
    }
)


@cache
def open_builder(
    model_folder: str, chain: ChainSection, row_length: int
) -> tuple[ExampleBuilder, vocabulary.Vocabulary]:
    """The builder of a model folder, opened once a process: a worker takes many chunks."""
    with storage.local_folder(model_folder) as folder:
        layout = vocabulary.load(folder)
        return ExampleBuilder(text_tokenizer.load(folder), layout, chain, row_length), layout


@dataclass
class _Rows:
    """Examples as columns, the lists as one array an example."""

    names: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in NAME_COLUMNS})
    buckets: list[int] = field(default_factory=list)
    ids: list[npt.NDArray[np.int32]] = field(default_factory=list)
    masks: list[npt.NDArray[np.uint8]] = field(default_factory=list)


class ExampleMaker:
    """Makes the examples of chunks for one vocabulary, one mixture and one set of buckets."""

    def __init__(
        self, builder: ExampleBuilder, layout: vocabulary.Vocabulary, section: DataSection, draw: Draw, num_buckets: int
    ) -> None:
        self._builder, self._layout = builder, layout
        self._section, self._draw, self._num_buckets = section, draw, num_buckets

    def make(self, pieces: Sequence[Piece], spoken: Mapping[str, Spoken]) -> tuple[list[pa.Table], dict[str, Any]]:
        """The examples of a chunk as one table (SCHEMA) a bucket, empty ones too, and what was set aside and why.

        `spoken` are the utterances that the rows name. The second value is {group: {reason: number of rows}}.
        """
        rows, aside = _Rows(), Counter[tuple[str, str]]()
        for piece in pieces:
            for group, row, own in self._rows(piece):
                copies = self._draw.copies(group, row["id"])
                if not copies:
                    continue
                try:
                    built = self._builder.build(group, row, own or spoken)
                except SetAside as reason:
                    aside[group, reason.reason] += 1
                    continue
                for part, example in enumerate(built):
                    self._add(rows, example, part, copies)
        reasons: dict[str, dict[str, int]] = {}
        for (group, why), number in sorted(aside.items()):
            reasons.setdefault(group, {})[why] = number
        return self._tables(rows), reasons

    def _rows(self, piece: Piece) -> Iterator[tuple[str, dict[str, Any], Mapping[str, Spoken]]]:
        """Groups and rows of a piece, with the row's own utterance where the table is that of utterances."""
        table = sources.read(piece, self._section.split, sources.COLUMNS[piece.table])
        if piece.table == "units":
            made_by = pc.unique(table.column("tokenizer")).to_pylist()
            self._layout.require_units_of(made_by, piece.file)
            aligned = any(task_of(group) == "spans" for group in self._draw.repeats)
            words = (
                joins.words_of(self._section, piece.file, table.column("id"), made_by)
                if aligned
                else pa.chunked_array([pa.nulls(table.num_rows, joins.WORDS)])
            )
            own = joins.spoken_rows(table.select(["id", "units", "durations"]).append_column("words", words))
        for row in sources.rows_of(table):
            for group in groups_of(piece.table, row):
                yield group, row, {row["id"]: own[row["id"]]} if piece.table == "units" else {}

    def _add(self, rows: _Rows, example: Example, part: int, copies: int) -> None:
        ids, mask = np.asarray(example.input_ids, np.int32), np.asarray(example.loss_mask, np.uint8)
        for copy in range(copies):
            name = f"{self._draw.seed}/{copy}/{example.task}/{example.source}"
            rows.buckets.append(zlib.crc32((f"{name}/{part}" if part else name).encode()) % self._num_buckets)
            values = (example.task, example.source, copy, part, len(ids))
            for column, value in zip(NAME_COLUMNS, values, strict=True):
                rows.names[column].append(value)
            rows.ids.append(ids)
            rows.masks.append(mask)

    def _tables(self, rows: _Rows) -> list[pa.Table]:
        buckets = np.asarray(rows.buckets, np.int64)
        order = np.argsort(buckets, kind="stable")
        ends = np.cumsum(np.asarray([0, *(len(rows.ids[place]) for place in order)]))
        offsets = pa.array(ends, pa.int32())
        columns = [pa.array(rows.names[name], SCHEMA.field(name).type).take(pa.array(order)) for name in NAME_COLUMNS]
        for lists, dtype in ((rows.ids, np.int32), (rows.masks, np.uint8)):
            flat = np.concatenate([np.empty(0, dtype), *(lists[place] for place in order)])
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(flat)))
        table = pa.table(columns, schema=SCHEMA)
        bounds = np.searchsorted(buckets[order], np.arange(self._num_buckets + 1))
        return [table.slice(start, end - start) for start, end in itertools.pairwise(bounds)]

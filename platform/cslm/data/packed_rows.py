"""One bucket of examples -> packed rows: planned on the lengths alone, then materialised by slices of columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.data.example_table import LIST_COLUMNS, NAME_COLUMNS, SCHEMA
from cslm.errors import CheckpointError
from cslm.lm import packing

# Keys of the Parquet schema's metadata of every file of the packed table.
VOCABULARY_KEY, COUNTS_KEY = b"cslm.vocabulary", b"cslm.counts"


def pack(files: Sequence[str], bucket: int, row_length: int) -> tuple[pa.Table, dict[str, dict[str, int]]]:
    """The packed rows of a bucket, which is the row group of its number in each of `files`.

    The second value counts what is in them: {group: {examples, tokens, targets}}. The rows follow from the examples
    alone, in whatever order and files they come.
    """
    table = pa.concat_tables([storage.read_row_groups(file, [bucket], SCHEMA.names) for file in files]).combine_chunks()
    names = table.select(NAME_COLUMNS)
    if not names.num_rows:
        return contracts.load("packed").table([]), {}
    order = pc.sort_indices(names, [(name, "ascending") for name in NAME_COLUMNS[:-1]]).to_numpy()
    rows = packing.best_fit(names.column("length").to_numpy()[order].tolist(), row_length)
    places = order[np.concatenate([np.asarray(row) for row in rows])]
    names = names.take(places).combine_chunks()
    lists = table.select(LIST_COLUMNS).take(places).combine_chunks()
    # Lists of examples lie one behind the other now: a row is a stretch of them.
    starts = _offsets([len(row) for row in rows])
    example_starts = _offsets(names.column("length").to_numpy())
    row_starts = pa.array(example_starts[starts], pa.int32())
    segments = pa.array(starts, pa.int32())
    mask = _values(lists.column("loss_mask"))
    columns = [
        pa.ListArray.from_arrays(row_starts, _values(lists.column("input_ids"))),
        pa.ListArray.from_arrays(row_starts, mask),
        *(pa.ListArray.from_arrays(segments, _whole(names.column(name))) for name in ("length", "group", "source")),
    ]
    schema = contracts.load("packed").schema
    counts = _counts(names, np.add.reduceat(mask.to_numpy().astype(np.int64), example_starts[:-1]))
    return pa.table(columns, names=schema.names), counts


def require_vocabulary(file: str, schema: pa.Schema, wanted: str) -> None:
    """Raise CheckpointError unless a file of a packed table was made for the vocabulary with the hash `wanted`."""
    found = (schema.metadata or {}).get(VOCABULARY_KEY, b"none").decode()
    if found != wanted:
        raise CheckpointError(
            f"{file}: packed rows must be in the ids of the model's vocabulary {wanted}, found {found}; "
            "pack them for this model: the same command with another output.path does"
        )


def _counts(names: pa.Table, targets: Any) -> dict[str, dict[str, int]]:
    groups = _whole(names.column("group")).dictionary_encode()
    codes, number = groups.indices.to_numpy(), len(groups.dictionary)
    lengths = names.column("length").to_numpy()
    examples = np.bincount(codes, minlength=number)
    tokens = np.bincount(codes, weights=lengths, minlength=number).astype(np.int64)
    wanted = np.bincount(codes, weights=targets, minlength=number).astype(np.int64)
    return {
        name: {"examples": int(examples[code]), "tokens": int(tokens[code]), "targets": int(wanted[code])}
        for code, name in enumerate(groups.dictionary.to_pylist())
    }


def _offsets(lengths: Any) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _values(column: pa.ChunkedArray) -> pa.Array:
    return _whole(column).flatten()

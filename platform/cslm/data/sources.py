"""The tables that training reads: where they lie, which files and rows count, and their rows piece by piece.

A table is read by pieces, ranges of rows of one file, and only in the columns that are needed, so that many processes
can share a table of any size and none needs the whole.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.config import REQUIRED, Section, group, setting
from cslm.data.mixture import MixtureSection, TaskWeights
from cslm.errors import ConfigError
from cslm.lm.chain import ChainSection

# What an example of each table is made from.
COLUMNS: dict[str, tuple[str, ...]] = {
    "units": ("id", "language", "text", "units", "durations", "tokenizer", "split"),
    "parallel_text": (
        *("id", "source_language", "target_language", "source", "target"),
        *("source_audio", "target_audio", "split"),
    ),
    "dialogues": ("id", "turns", "split"),
}


class DataSection(Section):
    """The tables that training reads and how they become rows."""

    units: str = setting(
        REQUIRED, "units table made by jobs/tokenize.py: its folder `units`, or the job's output folder"
    )
    alignments: str | None = setting(
        None,
        "alignments table made by jobs/align.py for these units: its folder `alignments`, or the job's output folder",
    )
    parallel_text: str | None = setting(None, "parallel_text table")
    dialogues: str | None = setting(None, "dialogues table")
    row_length: int = setting(1024, "length of a packed training row", unit="tokens", ge=16)
    weights: TaskWeights = group(TaskWeights, "how often each task's examples are seen in one epoch")
    mixture: MixtureSection = group(MixtureSection, "how the languages and directions of a task share its weight")
    chain: ChainSection = group(ChainSection, "how text and speech follow each other in an answer")
    split: str = setting("train", "split that is trained on")


def units_folder(path: str) -> str:
    """The units table itself, given either its folder or the output folder of the tokenize job."""
    return _inner(path, "units")


def alignments_folder(path: str) -> str:
    """The alignments table itself, given either its folder or the output folder of the align job."""
    return _inner(path, "alignments")


def tokenizer_folder(section: DataSection) -> str:
    """Where the tokenizer lies that made the units."""
    return storage.join(storage.parent(units_folder(section.units)), "tokenizer")


def resolved(section: DataSection) -> DataSection:
    """The same tables by absolute paths: workers know neither the driver's folder nor its environment."""
    named = {"parallel_text": section.parallel_text, "dialogues": section.dialogues}
    paths = {name: storage.absolute(path) for name, path in named.items() if path}
    if section.alignments:
        paths["alignments"] = alignments_folder(section.alignments)
    return section.model_copy(update={"units": units_folder(section.units), **paths})


def tables_of(section: DataSection) -> dict[str, str]:
    """The tables that a resolved section names, by name."""
    named = {"units": section.units, "parallel_text": section.parallel_text, "dialogues": section.dialogues}
    return {name: uri for name, uri in named.items() if uri}


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of one file of a table whose folder is `uri`."""

    table: str
    uri: str
    file: str
    start: int
    stop: int


def files_of(table: str, uri: str, split: str) -> list[storage.Entry]:
    """The files of a table that can hold rows of a split, by name. Raises ConfigError when there is no such table."""
    if not storage.exists(uri):
        raise ConfigError(f"data.{table}: must be a table, found nothing at {uri}")
    if not storage.is_folder(uri):
        found = storage.entry(uri)
        return [found] if found else []
    return [one for one in storage.list_entries(uri, ".parquet") if _split_of(uri, one.uri) in (None, split)]


def chunks(pieces: Sequence[Piece], rows: int) -> list[list[Piece]]:
    """Pieces of one table -> lists of about `rows` rows each: large files are cut, small ones lie together."""
    found: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            if room <= 0:
                found.append([])
                room = rows
            stop = min(piece.stop, start + room)
            found[-1].append(Piece(piece.table, piece.uri, piece.file, start, stop))
            room -= stop - start
            start = stop
    return found


def read(piece: Piece, split: str, columns: Sequence[str]) -> pa.Table:
    """The rows of a piece that belong to `split`, in the contract's form, with the columns that hive folders name."""
    contract = contracts.load(piece.table)
    table = storage.read_rows(piece.file, columns, piece.start, piece.stop)
    for part in piece.file.removeprefix(piece.uri).split("/"):
        column, found, value = part.partition("=")
        if found and column in contract.partition_columns and column in columns and column not in table.column_names:
            table = table.append_column(column, pa.array([value] * table.num_rows, pa.string()))
    table = contract.only(columns).check(table, piece.file)
    if "split" not in columns:
        return table
    return table.filter(pc.equal(pc.fill_null(table.column("split"), "train"), split))


def units_of(units: str, ids: Sequence[str]) -> dict[str, list[int]]:
    """The merged units of a few named utterances, by one pass over the whole table."""
    table = storage.read_table(units_folder(units), ["id", "units"], pc.field("id").isin(list(ids)))
    return dict(zip(table.column("id").to_pylist(), table.column("units").to_pylist(), strict=True))


def alignments_file(section: DataSection, units_file: str) -> str | None:
    """The file of the alignments table that belongs to a file of the units table; None when there is none."""
    if section.alignments is None:
        return None
    file = storage.join(section.alignments, units_file.removeprefix(section.units))
    return file if storage.exists(file) else None


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as examples are made from them; lists of numbers stay NumPy arrays, which is far quicker."""
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        is_numbers = pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)
        columns[name] = number_lists(column) if is_numbers else column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def number_lists(column: pa.ChunkedArray) -> list[Any]:
    """A column of lists of numbers, without nulls, as one NumPy array a row; the arrays share the column's memory."""
    found: list[Any] = []
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy()
        found += [values[start:end] for start, end in itertools.pairwise(offsets)]
    return found


def digest_of(files: Mapping[str, Sequence[storage.Entry]], uris: Mapping[str, str]) -> list[list[str]]:
    """What says whether tables are still the same: for each its name and a digest of its listing."""
    return [[name, storage.digest(uris[name], entries)] for name, entries in files.items()]


def _inner(path: str, name: str) -> str:
    absolute = storage.absolute(path)
    inner = storage.join(absolute, name)
    return inner if storage.is_folder(inner) else absolute


def _split_of(uri: str, file: str) -> str | None:
    named = [part.removeprefix("split=") for part in file.removeprefix(uri).split("/") if part.startswith("split=")]
    return named[0] if named else None

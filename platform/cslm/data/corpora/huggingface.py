"""Tables with recordings in them: Parquet, or Arrow as `datasets` saves it, with a Hugging Face audio column.

Such a column is a struct of `bytes` and `path`, or plain binary. Parquet is read without that column, and its rows
address it by row. Arrow lays values out in the open: a row says which bytes of the file are its recording, unless the
file is compressed.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cslm import storage
from cslm.data import locators
from cslm.data.containers import arrow_batches, open_parquet, open_watched
from cslm.data.corpora.source import GROUP, Row, Source, fault, split_in, stem, suffix
from cslm.data.corpora.tables import readable
from cslm.errors import ConfigError
from cslm.plain_values import plain_only
from cslm.storage import Entry

_BATCH_ROWS = 4096
_OURS = ("id", "text", "language", "speaker", "split", "start_s", "end_s")
_ARROW_MAGIC = b"ARROW1"


class _Body(NamedTuple):
    """Where the buffers of a record batch lie, in the file and in memory."""

    start: int
    address: int
    size: int


def recognises(source: Source) -> bool:
    """Whether it is Arrow, or Parquet with recordings in a column."""
    found = facts(source)
    if not found or suffix(found[0].uri) == ".arrow":
        return bool(found)
    with readable(found[0].uri) as problems:
        return _audio_column(source, open_parquet(found[0].uri).schema_arrow) is not None
    return not problems


def facts(source: Source) -> list[Entry]:
    """The tables: Arrow where there is any, else Parquet."""
    arrow = [entry for entry in source.ending(".arrow") if not storage.name(entry.uri).startswith("cache-")]
    return arrow or source.ending(".parquet")


def rows(source: Source) -> Iterator[Row]:
    """One row a row of the tables."""
    found = facts(source)
    if not found:
        raise ConfigError(f"corpus.manifest: must hold *.parquet or *.arrow, found none in {source.uri}")
    for entry in found:
        table = _Table(source, entry.uri)
        with readable(entry.uri) as problems:
            yield from table.arrow() if suffix(entry.uri) == ".arrow" else table.parquet()
        yield from problems


class _Table:
    """Rows of one file."""

    def __init__(self, source: Source, uri: str) -> None:
        self._source, self._uri = source, uri
        inner = source.inner(uri)
        self._name = stem(inner)
        self._split = split_in(*inner.split("/"))
        if self._split is None and suffix(uri) == ".arrow":
            self._split = _saved_split(storage.parent(uri))

    def parquet(self) -> Iterator[Row]:
        """Rows without their recordings, which stay unread unless some of a row group may be missing."""
        file = open_parquet(self._uri)
        audio = self._found(file.schema_arrow)
        is_struct = pa.types.is_struct(file.schema_arrow.field(audio).type)
        leaf = f"{audio}.bytes" if is_struct else audio
        others = self._columns(file.schema_arrow, audio)
        path = [f"{audio}.path"] if is_struct and _has_field(file.schema_arrow, audio, "path") else []
        first = 0
        for group in range(file.num_row_groups):
            known = _nulls(file.metadata.row_group(group), leaf)
            place = f"{self._uri}:{group}"
            wanted = [*others.values(), *path, *([leaf] if known is None else [])]
            batches: Any = file.iter_batches(_BATCH_ROWS if known is not None else 64, [group], wanted)
            if not wanted:
                batches = [None]
            for batch in batches:
                num_rows = file.metadata.row_group(group).num_rows if batch is None else batch.num_rows
                absent, paths = [bool(known)] * num_rows, [None] * num_rows
                if batch is not None and (path or known is None):
                    column = batch.column(audio)
                    paths = column.field("path").to_pylist() if path else paths
                    if known is None:
                        absent = _is_absent(column)
                texts = self._texts(batch, others, num_rows)
                for n in range(num_rows):
                    address = None if absent[n] else locators.of_row(self._uri, first + n, leaf)
                    yield self._row(first + n, texts[n], address, paths[n], place)
                first += num_rows

    def arrow(self) -> Iterator[Row]:
        """Rows with the place of their recordings in the file."""
        first = 0
        for number, (batch, body) in enumerate(_batches(self._uri)):
            audio = self._found(batch.schema)
            column = batch.column(audio)
            is_struct = pa.types.is_struct(column.type)
            paths = column.field("path").to_pylist() if is_struct and _has_field(batch.schema, audio, "path") else None
            values = column.field("bytes") if is_struct else column
            leaf = f"{audio}.bytes" if is_struct else audio
            absent = _is_absent(column)
            spans = _spans(values, body)
            texts = self._texts(batch, self._columns(batch.schema, audio), batch.num_rows)
            for n in range(batch.num_rows):
                address = None
                if not absent[n]:
                    by_row = locators.of_row(self._uri, first + n, leaf)
                    address = locators.of_bytes(self._uri, *spans[n]) if spans else by_row
                place = None if spans else f"{self._uri}:{number}"
                yield self._row(first + n, texts[n], address, paths[n] if paths else None, place)
            first += batch.num_rows

    def _row(self, number: int, told: Row, address: str | None, path: str | None, group: str | None) -> Row:
        row: Row = {"split": self._split, **told, GROUP: group}
        row["id"] = told.get("id") or f"{self._name}/{number}"
        if address is not None:
            return {**row, "audio": address}
        if path:
            return {**row, **self._source.audio(path, storage.parent(self._uri)), GROUP: None}
        message = f"row {number} of {self._uri} must hold bytes or a path of audio, found neither; drop the row"
        return {**row, **fault("no_audio", message, id=row["id"], audio=self._uri)}

    def _found(self, schema: pa.Schema) -> str:
        column = _audio_column(self._source, schema)
        if column is None:
            raise ConfigError(
                f"corpus.columns: audio must name a column of bytes, or of structs of bytes and path; found "
                f"{', '.join(f'{field.name} ({field.type})' for field in schema)} in {self._uri}"
            )
        return column

    def _columns(self, schema: pa.Schema, audio: str) -> dict[str, str]:
        columns = {}
        for ours in _OURS:
            theirs = self._source.column(ours, [name for name in schema.names if name != audio])
            # Labels that are numbers stand for names that only `datasets` knows.
            if theirs and (ours in self._source.columns or _is_text(schema.field(theirs).type)):
                columns[ours] = theirs
        return columns

    @staticmethod
    def _texts(batch: Any, columns: dict[str, str], num_rows: int) -> list[Row]:
        values = {ours: batch.column(theirs).to_pylist() for ours, theirs in columns.items()}
        told = [{ours: column[n] for ours, column in values.items()} for n in range(num_rows)]
        return [{ours: value for ours, value in one.items() if value is not None} for one in told]


def _audio_column(source: Source, schema: pa.Schema) -> str | None:
    """The user's choice, or what `datasets` says, or the one column that looks like it."""
    candidates = [field.name for field in schema if _is_audio(field.type)]
    if chosen := source.columns.get("audio"):
        return chosen if chosen in candidates else None
    declared = [name for name in _declared(schema) if name in candidates]
    structs = [name for name in candidates if pa.types.is_struct(schema.field(name).type)]
    for found in (declared, structs, [name for name in candidates if name in ("audio", "wav", "flac", "mp3", "bytes")]):
        if len(found) == 1 or "audio" in found:
            return "audio" if "audio" in found else found[0]
    return None


def _declared(schema: pa.Schema) -> Sequence[str]:
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Audio"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _is_audio(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _has_field(schema: pa.Schema, column: str, name: str) -> bool:
    return any(field.name == name for field in schema.field(column).type)


def _is_absent(column: pa.Array) -> list[bool]:
    """Where a column of structs or of binary has no bytes: a struct that is null has none either."""
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    absent: list[bool] = values.is_null().to_pylist()
    return absent


def _nulls(group: pq.RowGroupMetaData, leaf: str) -> bool | None:
    """Whether all values of a column of a row group are null (True) or none is (False); None where it is not told."""
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == leaf:
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                return None
            if statistics.null_count == 0:
                return False
            return True if statistics.null_count == group.num_rows else None
    return True


def _saved_split(folder: str) -> str | None:
    """The split that `datasets` noted beside the files of a saved data set."""
    state = storage.join(folder, "state.json")
    try:
        return split_in(str(storage.read_json(state).get("_split"))) if storage.entry(state) else None
    except (ValueError, AttributeError):
        return None


def _batches(uri: str) -> Iterator[tuple[pa.RecordBatch, _Body | None]]:
    """Record batches of an Arrow file or stream, each with where its body lies; None where that tells nothing."""
    # Of a local file only what is looked at is read; elsewhere the body comes with the texts in it.
    with open_watched(uri) if storage.is_uri(uri) else storage.open_mapped(uri) as stream:
        is_file = stream.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
        # A file is a stream between its mark and its index.
        stream.seek(8 if is_file else 0)
        schema = plain_only(pa.ipc.read_schema(stream), uri)
        if any(pa.types.is_dictionary(field.type) for field in schema):
            stream.seek(0)
            yield from ((batch, None) for batch in arrow_batches(stream))
            return
        while True:
            place = stream.tell()
            try:
                message = pa.ipc.read_message(stream)
            except EOFError as error:
                if stream.tell() == place:
                    raise pa.ArrowInvalid(f"no end mark at byte {place}") from error
                return
            body = message.body
            yield (
                pa.ipc.read_record_batch(message, schema),
                _Body(stream.tell() - body.size, body.address, body.size) if body is not None else None,
            )


def _spans(values: pa.Array, body: _Body | None) -> list[tuple[int, int]] | None:
    """(start, length) in the file of each binary value; None where the values are not in the body as they are."""
    _, offsets, data = values.buffers()
    if body is None or data is None or not 0 <= data.address - body.address < body.size:
        return None
    start = body.start + data.address - body.address
    width = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    ends = np.frombuffer(offsets, width)[values.offset : values.offset + len(values) + 1]
    return [(start + int(a), int(b - a)) for a, b in itertools.pairwise(ends)]

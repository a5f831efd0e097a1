"""The canonical manifest: rows of any source -> one table of utterances in numbered shards, and the first rejects.

A shard holds rows of one language and split, in the order of the source, so that it becomes one file of the units
table. Making it is a stream: a million rows cost the memory of one chunk, of the rows that wait for their shard to
fill, and 16 bytes a row to find ids that come twice.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from cslm import contracts, storage
from cslm.config import Section, fingerprint
from cslm.data.corpus import CorpusSection, Reader, Row
from cslm.data.seen import Seen
from cslm.errors import ConfigError

MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "dev", "test")
_FORMAT_VERSION = 1
_CHUNK_ROWS = 4096
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


class Manifest(Section):
    """The canonical manifest as `<output>/manifest/manifest.json` records it."""

    key: str
    num_rows: int
    rejected: dict[str, int]
    shards: list[dict[str, Any]]
    notices: list[str]


def source_key(section: CorpusSection) -> str:
    """Changes when the manifest's files (names, sizes, times of change) or the way of reading them change."""
    uri = storage.absolute(section.manifest)
    if not storage.exists(uri):
        raise ConfigError(f"corpus.manifest: must be a file or a folder, found nothing at {uri}")
    settings = section.model_dump(mode="json", exclude={"manifest"})
    return fingerprint(
        {"version": _FORMAT_VERSION, "uri": uri, "files": storage.listing_digest(uri), "settings": settings}
    )


def prepare(section: CorpusSection, output: str) -> Manifest:
    """Make the canonical manifest below `output`, unless the one there is of the same source.

    Rows that cannot be named or placed go to `rejects` (stage manifest). Raises ConfigError when the source cannot be
    read at all or lacks required columns.
    """
    key = source_key(section)
    folder = storage.join(output, "manifest")
    record = storage.join(folder, MANIFEST_FILE)
    if storage.exists(record):
        known = storage.read_json(record)
        if known["key"] == key:
            return Manifest(**known)
        storage.remove(record)
    storage.remove(folder)
    for path in storage.list_files(storage.join(output, "rejects"), ".parquet"):
        if storage.name(path).startswith("manifest-"):
            storage.remove(path)
    builder = _Builder(section, output)
    reader = Reader(section)
    for first_row, rows in _chunks(reader.rows()):
        builder.add(first_row, rows)
    manifest = builder.finish(key, reader.notices)
    storage.write_json(record, manifest.model_dump(mode="json"))
    return manifest


def load(output: str) -> Manifest:
    """The canonical manifest that `prepare` made."""
    return Manifest(**storage.read_json(storage.join(output, "manifest", MANIFEST_FILE)))


def read_shard(output: str, name: str) -> pa.Table:
    """The utterances of one shard, `audio` absolute."""
    path = storage.join(output, "manifest", f"{name}.parquet")
    return contracts.load("utterances").check(storage.read_table(path), path)


class _Builder:
    """Sorts rows into shards and rejects, and writes both as they fill."""

    def __init__(self, section: CorpusSection, output: str) -> None:
        self._section, self._output = section, output
        self._contract = contracts.load("utterances")
        self._waiting: dict[tuple[str, str], list[Row]] = {}
        self._seen = Seen()
        self._num_rows = 0
        self._shards: list[dict[str, Any]] = []
        self._rejects: list[Row] = []
        self._reasons: Counter[str] = Counter()
        self._num_reject_files = 0

    def add(self, first_row: int, rows: list[Row]) -> None:
        self._num_rows += len(rows)
        taken = []
        for number, row in enumerate(rows, first_row):
            clean, fault = _clean(row, self._section)
            if fault:
                self._reject(number, row, *fault)
            else:
                taken.append((number, clean))
        twice = self._seen.add([clean["id"] for _, clean in taken])
        for (number, clean), repeated in zip(taken, twice, strict=True):
            if repeated:
                message = f"ids must be unique, found {clean['id']} again in row {number}; rename or drop the row"
                self._reject(number, clean, "duplicate_id", message)
                continue
            place = (clean["language"], clean["split"])
            waiting = self._waiting.setdefault(place, [])
            waiting.append(clean)
            if len(waiting) == self._section.rows_per_shard:
                self._write_shard(place)
        if len(self._rejects) >= _CHUNK_ROWS:
            self._write_rejects()

    def finish(self, key: str, notices: list[str]) -> Manifest:
        for place in sorted(self._waiting):
            self._write_shard(place)
        self._write_rejects()
        return Manifest(
            key=key, num_rows=self._num_rows, rejected=dict(self._reasons), shards=self._shards, notices=notices
        )

    def _write_shard(self, place: tuple[str, str]) -> None:
        rows = self._waiting.pop(place)
        name = f"shard-{len(self._shards):05d}"
        table = self._contract.table(rows)
        storage.write_table(table, storage.join(self._output, "manifest", f"{name}.parquet"))
        self._shards.append(
            {"name": name, "language": place[0], "split": place[1], "rows": len(rows), "digest": table_digest(table)}
        )

    def _reject(self, number: int, row: Row, error: str, message: str) -> None:
        self._reasons[error] += 1
        entry = {"id": _text(row.get("id")) or f"#{number}", "source": _text(row.get("audio")) or ""}
        self._rejects.append({**entry, "stage": "manifest", "error": error, "message": message})

    def _write_rejects(self) -> None:
        if self._rejects:
            path = storage.join(self._output, "rejects", f"manifest-{self._num_reject_files:05d}.parquet")
            storage.write_table(contracts.load("rejects").table(self._rejects), path)
            self._num_reject_files += 1
            self._rejects = []


def table_digest(table: pa.Table) -> str:
    """16 hex digits of the content of a flat table, equal however it lies in memory."""
    sink = io.BytesIO()
    pacsv.write_csv(table, sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def _clean(row: Row, section: CorpusSection) -> tuple[Row, tuple[str, str] | None]:
    """The row in contract types, and the reason and message when it cannot be taken."""
    if "#fault" in row:
        return {}, ("unreadable_row", row["#fault"])
    clean: Row = {name: _text(row.get(name)) for name in ("id", "audio", "text", "language", "speaker", "split")}
    clean["language"] = clean["language"] or section.language
    clean["split"] = clean["split"] or section.split
    for name in ("id", "audio", "language"):
        if not clean[name]:
            return {}, (f"no_{name}", f"column {name} must hold a value, found none; fill it or drop the row")
    if not _LANGUAGE.fullmatch(clean["language"]):
        return {}, ("bad_language", f"language must be a BCP-47 tag such as en or zh-CN, found {clean['language']!r}")
    if clean["split"] not in SPLITS:
        return {}, ("bad_split", f"split must be one of {', '.join(SPLITS)}, found {clean['split']!r}; rename it")
    for name in ("start_s", "end_s"):
        value: Any = row.get(name)
        try:
            clean[name] = None if _is_blank(value) else float(value)
        except (TypeError, ValueError):
            return {}, ("bad_number", f"column {name} must be a number of seconds, found {value!r}")
    return clean, None


def _text(value: Any) -> str | None:
    return None if _is_blank(value) else str(value)


def _is_blank(value: Any) -> bool:
    # Tables that went through pandas hold NaN where there is nothing.
    return value is None or value == "" or value != value


def _chunks(rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
    first, chunk = 1, []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK_ROWS:
            yield first, chunk
            first, chunk = first + len(chunk), []
    if chunk:
        yield first, chunk

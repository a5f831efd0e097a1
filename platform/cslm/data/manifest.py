"""The canonical manifest: rows of any source -> one table of utterances in numbered shards, and the first rejects.

A shard holds rows of one language and split, in the order of the source, so that it becomes one file of the units
table. Making it is a stream: a million rows cost the memory of one chunk, of the rows that wait for their shard to
fill, and 16 bytes a row to find ids that come twice.
"""

import hashlib
import io
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from cslm import contracts, storage
from cslm.config import Section, fingerprint
from cslm.data import language_tags
from cslm.data.corpora import Corpus, CorpusSection
from cslm.data.corpora.source import FAULT, GROUP, REASON, SPLIT_NAMES, Row, split_in
from cslm.data.ids import Ids
from cslm.errors import ConfigError

MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "dev", "test")
_TEXTS = ("id", "audio", "text", "language", "speaker", "split")
_PLAIN = (str, int, float)
_FORMAT_VERSION = 2
_CHUNK_ROWS = 4096
# A shard does not end inside what is read in one go (a Parquet row group), unless that is as many times its size.
_MAX_SHARDS_IN_ONE = 16
# On object stores a write takes as long as making some shards.
_WRITES_AT_ONCE = 8


class Manifest(Section):
    """The canonical manifest as `<output>/manifest/manifest.json` records it."""

    key: str
    num_rows: int
    rejected: dict[str, int]
    shards: list[dict[str, Any]]
    notices: list[str]


def source_key(section: CorpusSection) -> str:
    """Changes when the files that tell the rows (names, sizes, times of change) or the way of reading them change.

    Costs one listing, or less where the layout says which files these are; no row is read.
    """
    corpus = Corpus(section)
    return fingerprint(
        {
            "version": _FORMAT_VERSION,
            "uri": corpus.source.uri,
            "format": corpus.format,
            "files": corpus.digest(),
            "settings": section.model_dump(mode="json", exclude={"manifest", "format"}),
        }
    )


def prepare(
    section: CorpusSection,
    output: str,
    *,
    key: str | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Manifest:
    """Make the canonical manifest below `output`, unless the one there is of the same source.

    `key` is the `source_key` where the caller has it. `on_rows` is told the number of rows read so far, every some
    thousand. Rows that cannot be named or placed go to `rejects` (stage manifest). Raises ConfigError when the source
    cannot be read at all or lacks required columns.
    """
    key = key or source_key(section)
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
    corpus = Corpus(section)
    with ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:
        builder = _Builder(section, output, pool)
        for first_row, rows in _chunks(corpus.rows()):
            builder.add(first_row, rows)
            if on_rows is not None:
                on_rows(first_row + len(rows) - 1)
        manifest = builder.finish(key, corpus.notices)
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

    def __init__(self, section: CorpusSection, output: str, pool: ThreadPoolExecutor) -> None:
        self._section, self._output, self._pool = section, output, pool
        self._writes: deque[Future[None]] = deque()
        self._contract = contracts.load("utterances")
        self._waiting: dict[tuple[str, str], list[Row]] = {}
        self._groups: dict[tuple[str, str], str | None] = {}
        self._ids = Ids()
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
        if first_row == 1 and self._reasons["no_language"] == len(rows):
            raise ConfigError(
                f"corpus.language: must be given, as none of the first {len(rows):,} rows names a language"
            )
        faults = self._ids.faults([clean for _, clean in taken])
        for (number, clean), id_fault in zip(taken, faults, strict=True):
            if id_fault:
                message = f"ids must be unique, found {id_fault} in row {number}; rename or drop the row"
                self._reject(number, clean, "duplicate_id", message)
                continue
            place = (clean["language"], clean["split"])
            group = clean.pop(GROUP, None)
            waiting = self._waiting.setdefault(place, [])
            if self._is_full(waiting) and (group is None or group != self._groups[place]):
                self._write_shard(place)
                waiting = self._waiting.setdefault(place, [])
            waiting.append(clean)
            self._groups[place] = group
            if self._is_full(waiting, 1 if group is None else _MAX_SHARDS_IN_ONE):
                self._write_shard(place)
        if len(self._rejects) >= _CHUNK_ROWS:
            self._write_rejects()

    def finish(self, key: str, notices: list[str]) -> Manifest:
        for place in sorted(self._waiting):
            self._write_shard(place)
        self._write_rejects()
        while self._writes:
            self._writes.popleft().result()
        return Manifest(
            key=key, num_rows=self._num_rows, rejected=dict(self._reasons), shards=self._shards, notices=notices
        )

    def _is_full(self, waiting: Sequence[Row], times: int = 1) -> bool:
        return len(waiting) >= times * self._section.rows_per_shard

    def _write_shard(self, place: tuple[str, str]) -> None:
        rows = self._waiting.pop(place)
        name = f"shard-{len(self._shards):05d}"
        table = self._contract.table(rows)
        self._write(table, storage.join(self._output, "manifest", f"{name}.parquet"))
        self._shards.append(
            {"name": name, "language": place[0], "split": place[1], "rows": len(rows), "digest": table_digest(table)}
        )

    def _write(self, table: pa.Table, path: str) -> None:
        self._writes.append(self._pool.submit(storage.write_table, table, path))
        while len(self._writes) > 2 * _WRITES_AT_ONCE:
            self._writes.popleft().result()

    def _reject(self, number: int, row: Row, error: str, message: str) -> None:
        self._reasons[error] += 1
        entry = {"id": _text(row.get("id")) or f"#{number}", "source": _text(row.get("audio")) or ""}
        self._rejects.append({**entry, "stage": "manifest", "error": error, "message": message})

    def _write_rejects(self) -> None:
        if self._rejects:
            path = storage.join(self._output, "rejects", f"manifest-{self._num_reject_files:05d}.parquet")
            self._write(contracts.load("rejects").table(self._rejects), path)
            self._num_reject_files += 1
            self._rejects = []


def table_digest(table: pa.Table) -> str:
    """16 hex digits of the content of a flat table, equal however it lies in memory."""
    sink = io.BytesIO()
    pacsv.write_csv(table, sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def _clean(row: Row, section: CorpusSection) -> tuple[Row, tuple[str, str] | None]:
    """The row in contract types, and the reason and message when it cannot be taken."""
    if FAULT in row:
        return {}, (row.get(REASON) or "unreadable_row", row[FAULT])
    clean: Row = {GROUP: row.get(GROUP)}
    for name in _TEXTS:
        value = row.get(name)
        if type(value) is str:
            clean[name] = value or None
        elif isinstance(value, _PLAIN) or value is None:
            clean[name] = None if _is_blank(value) else str(value)
        else:
            found = f"column {name} must hold text, found {type(value).__name__} {str(value)[:40]}"
            return {}, ("bad_value", f"{found}; corpus.columns says which column to take")
    if not _is_unicode(clean):
        return {}, ("wrong_encoding", "texts must be Unicode, found halves of characters; save the manifest as UTF-8")
    for name in ("id", "audio"):
        if not clean[name]:
            return {}, (f"no_{name}", f"column {name} must hold a value, found none; fill it or drop the row")
    if fault := _place(clean, section):
        return {}, fault
    return clean, _span(row, clean)


def _place(clean: Row, section: CorpusSection) -> tuple[str, str] | None:
    """Give the row its language and split, in the one way of writing each."""
    tag = clean["language"] or section.language
    if not tag:
        return "no_language", "column language must hold a value, found none; fill it, or give corpus.language"
    clean["language"] = language_tags.canonical(tag)
    if clean["language"] is None:
        return "bad_language", f"language must be a BCP-47 tag such as en or zh-CN, found {tag!r}"
    if not language_tags.is_language(tag):
        message = f"language must begin with an ISO 639 code of a language, such as en or yue, found {tag!r}"
        return "unknown_language", f"{message}; countries have other codes than languages"
    split = clean["split"] or section.split
    clean["split"] = split if split in SPLITS else split_in(split)
    if clean["split"] is None:
        known = ", ".join(SPLIT_NAMES)
        return "bad_split", f"split must be one of {', '.join(SPLITS)} or begin with one of {known}, found {split!r}"
    return None


def _span(row: Row, clean: Row) -> tuple[str, str] | None:
    for name in ("start_s", "end_s"):
        value: Any = row.get(name)
        try:
            clean[name] = None if _is_blank(value) else float(value)
        except (TypeError, ValueError):
            return "bad_number", f"column {name} must be a number of seconds, found {str(value)[:40]!r}"
    start_s, end_s = clean["start_s"], clean["end_s"]
    if start_s is None and end_s is None:
        return None
    if not 0 <= (start_s or 0) < (math.inf if end_s is None else end_s) or end_s == math.inf:
        return "bad_span", f"a span must have 0 <= start_s < end_s, found {start_s} and {end_s}; mend the row"
    return None


def _text(value: Any) -> str | None:
    if _is_blank(value):
        return None
    return str(value).encode(errors="replace").decode()


def _is_blank(value: Any) -> bool:
    # Tables that went through pandas hold NaN where there is nothing.
    return value is None or value == "" or value != value


def _is_unicode(clean: Row) -> bool:
    try:
        "".join([clean[name] for name in _TEXTS if clean[name]]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _chunks(rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
    first, chunk = 1, []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK_ROWS:
            yield first, chunk
            first, chunk = first + len(chunk), []
    if chunk:
        yield first, chunk

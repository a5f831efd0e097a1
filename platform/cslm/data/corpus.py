"""Readers of manifests: JSONL, CSV, TSV, Parquet, folders of such parts, and plain folders of audio files.

Each yields rows as plain dicts, one after the other, whatever the size of the source; what a row must hold is decided
in one place, `data.manifest`.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cslm import contracts, storage
from cslm.config import REQUIRED, Section, setting
from cslm.errors import ConfigError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au")
_READERS = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_BATCH_ROWS = 4096

Row = dict[str, Any]


class CorpusSection(Section):
    """What to tokenize."""

    manifest: str = setting(REQUIRED, "JSONL, CSV, TSV or Parquet file, a folder of such parts, or a folder of audio")
    language: str | None = setting(None, "language of rows that name none (BCP-47); needed for a folder of audio")
    split: str = setting("train", "split of rows that name none: train, dev or test", pattern="^(train|dev|test)$")
    rows_per_shard: int = setting(256, "utterances in a shard, the unit of work and of resuming", ge=1)


class Reader:
    """Rows of the source as dicts of strings and numbers, with the absolute `audio`; `notices` fill while reading."""

    def __init__(self, section: CorpusSection) -> None:
        self._uri = storage.absolute(section.manifest)
        self._language = section.language
        self._columns = contracts.load("utterances").schema.names
        self.notices: list[str] = []
        self._ignored: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """Rows one after the other; a row that could not be read is `{"#fault": why}`."""
        if not storage.is_folder(self._uri):
            yield from self._file(self._uri, storage.parent(self._uri))
        else:
            files = storage.list_files(self._uri)
            suffixes = sorted({_suffix(file) for file in files} & set(_READERS))
            if len(suffixes) > 1:
                raise ConfigError(
                    f"corpus.manifest: a folder must hold manifests of one kind, found {suffixes} in {self._uri}; "
                    "name the file"
                )
            if not suffixes:
                yield from self._audio_files(files)
            elif suffixes == [".parquet"]:
                yield from self._parquet(self._uri, self._uri)
            else:
                for file in files:
                    if _suffix(file) in suffixes:
                        yield from self._file(file, storage.parent(file))
        if self._ignored:
            self.notices.append(f"columns of the manifest that have no use here: {sorted(self._ignored)}")

    def _file(self, uri: str, base: str) -> Iterator[Row]:
        kind = _READERS.get(_suffix(uri))
        if kind == "parquet":
            yield from self._parquet(uri, base)
        elif kind == "jsonl":
            yield from self._known(uri, base, _json_lines(uri))
        elif kind == "csv":
            yield from self._known(uri, base, _delimited(uri))
        else:
            raise ConfigError(
                f"corpus.manifest: must be a folder or a file named {', '.join('*' + end for end in _READERS)}, "
                f"found {uri}"
            )

    def _parquet(self, uri: str, base: str) -> Iterator[Row]:
        dataset = storage.dataset(uri)
        self._check_columns(uri, dataset.schema.names)
        columns = [name for name in self._columns if name in dataset.schema.names]
        for batch in dataset.to_batches(columns=columns, batch_size=_BATCH_ROWS, batch_readahead=1):
            for row in batch.to_pylist():
                yield self._resolved(row, base)

    def _known(self, uri: str, base: str, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows of a text file: required columns are looked for in its first rows together."""
        head: list[Row] = []
        for row in rows:
            head.append(row)
            if len(head) == _BATCH_ROWS:
                break
        if not head:
            raise ConfigError(f"corpus.manifest: must hold rows, found none in {uri}")
        self._check_columns(uri, list(dict.fromkeys(key for row in head for key in row)))
        for row in head:
            yield self._resolved(row, base)
        for row in rows:
            yield self._resolved(row, base)

    def _audio_files(self, files: Sequence[str]) -> Iterator[Row]:
        audio = [file for file in files if _suffix(file) in AUDIO_SUFFIXES]
        if not audio:
            raise ConfigError(
                f"corpus.manifest: a folder must hold a manifest ({', '.join(_READERS)}) or audio "
                f"({', '.join(AUDIO_SUFFIXES)}), found neither in {self._uri}"
            )
        if self._language is None:
            raise ConfigError(f"corpus.language: must be given, as the audio files in {self._uri} name no language")
        for file in audio:
            inner = file[len(self._uri) :].strip("/")
            yield {"id": inner[: -len(_suffix(inner))], "audio": file}

    def _check_columns(self, uri: str, found: Sequence[str]) -> None:
        required = ["id", "audio"] + ([] if self._language else ["language"])
        missing = [f"corpus.manifest: column {name} is required" for name in required if name not in found]
        if missing:
            hint = "; corpus.language gives all rows one language" if "language" not in found else ""
            raise ConfigError([*missing, f"corpus.manifest: {uri} has the columns {sorted(found)}{hint}"])
        self._ignored |= {name for name in found if name not in self._columns and not name.startswith("#")}

    def _resolved(self, row: Row, base: str) -> Row:
        audio = row.get("audio")
        if isinstance(audio, str) and audio and not audio.startswith("/") and not storage.is_uri(audio):
            path = f"{base}/{audio}"
            row["audio"] = path if storage.is_uri(base) or "./" not in audio else os.path.normpath(path)
        return row


def _suffix(path: str) -> str:
    dot = path.rfind(".", path.rfind("/") + 1)
    return path[dot:].lower() if dot >= 0 else ""


def _json_lines(uri: str) -> Iterator[Row]:
    with storage.open_input(uri) as stream:
        for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                row = {"#fault": f"line {number} of {uri} must be JSON, found {error}"}
            if not isinstance(row, Mapping):
                row = {"#fault": f"line {number} of {uri} must be a JSON object, found {line[:40]!r}"}
            yield dict(row)


def _delimited(uri: str) -> Iterator[Row]:
    # Tab-separated corpora are written unquoted: a quotation mark there belongs to the text.
    tabs = uri.lower().endswith(".tsv")
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    with storage.open_input(uri) as stream:
        text = io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text, **options)
        for row in reader:
            if None in row or None in row.values():
                found = len(row.get(None) or []) + sum(value is not None for key, value in row.items() if key)
                expected = len(reader.fieldnames or [])
                yield {
                    "id": row.get("id"),
                    "audio": row.get("audio"),
                    "#fault": f"line {reader.line_num} of {uri} must have {expected} fields, found {found}",
                }
            else:
                yield row

"""Manifests that a user wrote in our own columns: JSONL, CSV, TSV, Parquet, or a folder of parts of one of these."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from cslm import storage
from cslm.data.containers import open_parquet
from cslm.data.corpora import text
from cslm.data.corpora.source import COLUMNS, FAULT, Row, Source, fault, suffix
from cslm.data.corpora.tables import readable
from cslm.errors import ConfigError
from cslm.storage import Entry

KINDS = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".parquet": "parquet",
}
_HEAD_ROWS = _BATCH_ROWS = 4096
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def recognises(source: Source) -> bool:
    """Whether it is a file of one of the kinds, or a folder with some below it."""
    return bool(parts(source))


def parts(source: Source) -> list[Entry]:
    """The files that are read. Raises ConfigError for a folder with files of several kinds."""
    found = [entry for entry in source.entries if suffix(entry.uri) in KINDS]
    kinds = sorted({suffix(entry.uri) for entry in found})
    if len(kinds) > 1:
        raise ConfigError(
            f"corpus.manifest: a folder must hold manifests of one kind, found {kinds} in {source.uri}; name the file"
        )
    return found


def rows(source: Source) -> Iterator[Row]:
    """Rows of all parts, by the columns of the utterances table."""
    found = parts(source)
    if not found:
        wanted = ", ".join(f"*{end}" for end in KINDS)
        raise ConfigError(f"corpus.manifest: must be a folder or a file named {wanted}, found {source.uri}")
    ignored: set[str] = set()
    if KINDS[suffix(found[0].uri)] == "parquet":
        yield from _parquet(source, found, ignored)
    else:
        for entry in found:
            read = text.json_lines if KINDS[suffix(entry.uri)] == "jsonl" else text.delimited
            yield from _known(source, entry.uri, read(entry.uri), ignored)
    if ignored:
        source.notices.append(f"columns of the manifest that have no use here: {sorted(ignored)}")


def _parquet(source: Source, found: Sequence[Entry], ignored: set[str]) -> Iterator[Row]:
    for entry in found:
        # Folders named `column=value` are columns of the files below them.
        folders = re.findall(r"([a-z_]+)=([^/]*)/", source.inner(entry.uri))
        fixed = {name: None if value == _HIVE_NULL else unquote(value) for name, value in folders}
        with readable(entry.uri) as problems:
            file = open_parquet(entry.uri)
            names = _checked(source, entry.uri, [*file.schema_arrow.names, *fixed], ignored)
            inside = {ours: theirs for ours, theirs in names.items() if theirs not in fixed}
            beside = {ours: fixed[theirs] for ours, theirs in names.items() if theirs in fixed}
            base = storage.parent(entry.uri) if not fixed else source.folder
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(inside.values())):
                columns = [batch.column(theirs).to_pylist() for theirs in inside.values()]
                for values in zip(*columns, strict=True):
                    row = dict(zip(inside, values, strict=True))
                    yield {**row, **beside, **source.audio(row["audio"], base)}
        yield from problems


def _known(source: Source, uri: str, found: Iterator[Row], ignored: set[str]) -> Iterator[Row]:
    """Rows of a text file: required columns are looked for in its first rows together."""
    head: list[Row] = []
    for row in found:
        head.append(row)
        if len(head) == _HEAD_ROWS:
            break
    if not head:
        yield fault("no_rows", f"{uri} must hold rows, found none", audio=uri, container=True)
        return
    whole = [row for row in head if FAULT not in row]
    base = storage.parent(uri)
    names = _checked(source, uri, list(dict.fromkeys(key for row in whole for key in row)), ignored) if whole else {}
    for rows in (head, found):
        for row in rows:
            ours = {name: row[theirs] for name, theirs in names.items() if theirs in row}
            if FAULT in row:
                yield {**row, **ours}
            else:
                yield {**ours, **source.audio(ours.get("audio"), base)}


def _checked(source: Source, uri: str, found: Sequence[str], ignored: set[str]) -> dict[str, str]:
    """Our names of the columns found -> theirs. Raises ConfigError when a required one is missing."""
    wanted = {ours: source.columns.get(ours, ours) for ours in COLUMNS}
    names = {ours: theirs for ours, theirs in wanted.items() if theirs in found}
    required = ["id", "audio"] + ([] if source.language else ["language"])
    missing = [f"corpus.manifest: column {wanted[ours]} is required" for ours in required if ours not in names]
    missing += [
        f"corpus.columns: {theirs} must be a column of the manifest"
        for ours, theirs in source.columns.items()
        if ours not in names and ours not in required
    ]
    if missing:
        hint = "; corpus.columns names columns that are called otherwise"
        hint += "; corpus.language gives all rows one language" if "language" not in names else ""
        raise ConfigError([*missing, f"corpus.manifest: {uri} has the columns {sorted(found)}{hint}"])
    ignored |= {name for name in found if name not in names.values()}
    return names

"""Lines and tables of text as corpora hold them: streamed, gzip unpacked on the way, what is broken told by line."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from cslm import storage
from cslm.data.corpora.source import CONTAINER, FAULT, Row, fault
from cslm.errors import ConfigError

# A request to an object store takes as long as reading some MB.
_LOCAL_BUFFER, _REMOTE_BUFFER = 1 << 20, 8 << 20
# Of a file cut short no more than this is lost before the damage.
_UNPACKED_BUFFER = 64 << 10


def open_text(uri: str) -> io.BufferedReader:
    """The bytes of a text file, `*.gz` unpacked."""
    size = _REMOTE_BUFFER if storage.is_uri(uri) else _LOCAL_BUFFER
    stream = io.BufferedReader(storage.open_input(uri), size)
    return io.BufferedReader(gzip.GzipFile(fileobj=stream), _UNPACKED_BUFFER) if uri.lower().endswith(".gz") else stream


def lines(uri: str) -> Iterator[tuple[int, str | Row]]:
    """Numbered lines that are not blank, without their ends; a fault in place of one that is not UTF-8.

    A file that is no text at all is one fault of a container.
    """
    with open_text(uri) as stream:
        try:
            if problem := _not_text(stream):
                yield 1, fault("not_text", f"{uri} must be UTF-8 text, found {problem}", audio=uri, container=True)
                return
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield number, _encoding_fault(uri, number, str(error))
                    continue
                if text and not text.isspace():
                    yield number, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield 1, _broken_gzip(uri, error)


def fields(uri: str) -> Iterator[tuple[str, str] | Row]:
    """Lines of `key value`, as Kaldi writes them: the key, and the rest which may be empty."""
    for number, line in lines(uri):
        if isinstance(line, dict):
            yield line
            continue
        key, _, value = line.strip().partition("\t" if "\t" in line and " " not in line.partition("\t")[0] else " ")
        if not key:
            yield fault("unreadable_row", f"line {number} of {uri} must begin with a key, found {line[:40]!r}")
        else:
            yield key, value.strip()


def json_lines(uri: str) -> Iterator[Row]:
    """One JSON object a line."""
    for number, line in lines(uri):
        if isinstance(line, dict):
            yield line
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield fault("unreadable_row", f"line {number} of {uri} must be JSON, found {error}")
            continue
        if isinstance(row, Mapping):
            yield dict(row)
        else:
            yield fault("unreadable_row", f"line {number} of {uri} must be a JSON object, found {line[:40]!r}")


def delimited(uri: str) -> Iterator[Row]:
    """Rows of a table with a header line: comma-separated, or tab-separated where the name says `.tsv`."""
    # Tab-separated corpora are written unquoted: a quotation mark there belongs to the text.
    tabs = uri.lower().removesuffix(".gz").endswith(".tsv")
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    with open_text(uri) as stream:
        try:
            if problem := _not_text(stream):
                yield fault("not_text", f"{uri} must be UTF-8 text, found {problem}", audio=uri, container=True)
                return
            text = io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8-sig", errors="surrogateescape", newline="")
            yield from _table(uri, csv.reader(text, **options))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield _broken_gzip(uri, error)


def _table(uri: str, reader: Any) -> Iterator[Row]:
    names = next(reader, None) or []
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield fault("unreadable_row", f"line {reader.line_num} of {uri} must be a row of a table, found {error}")
            continue
        if not values:
            continue
        row = dict(zip(names, values, strict=False))
        if not "".join(values).isascii() and not _is_unicode(values):
            yield _encoding_fault(uri, reader.line_num, "bytes of another encoding")
        elif len(values) != len(names):
            message = f"line {reader.line_num} of {uri} must have {len(names)} fields, found {len(values)}"
            yield {**row, FAULT: message}
        else:
            yield row


def first_row(uri: str) -> Row:
    """The first row of a table or the first object of JSON lines, empty where there is none: to tell what it is."""
    read = json_lines if ".jsonl" in uri.lower() else delimited
    return next((row for row in read(uri) if FAULT not in row), {})


def check_readable(uri: str, row: Row) -> None:
    """Raise ConfigError when a row says that a file which the rest depends on is unreadable."""
    if row.get(CONTAINER):
        raise ConfigError(f"corpus.manifest: {row[FAULT]}; {uri} is needed to read the corpus")


def _not_text(stream: io.BufferedReader) -> str | None:
    head = stream.peek(4096)[:4096]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16; save it as UTF-8"
    return "binary data" if b"\0" in head else None


def _is_unicode(values: list[str]) -> bool:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoding_fault(uri: str, number: int, found: str) -> Row:
    message = f"line {number} of {uri} must be UTF-8, found {found}; save the file as UTF-8"
    return fault("wrong_encoding", message)


def _broken_gzip(uri: str, error: Exception) -> Row:
    message = f"{uri} must unpack to its end, found {error or 'its end too soon'}; copy the file again"
    return fault("truncated", message, audio=uri, container=True)

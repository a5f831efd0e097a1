"""Rows of TSV and CSV files, by the names of their header line, or by places from 1 where columns are numbers."""

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, Row, unreadable
from cslm.errors import ConfigError


def rows(file: TextFile, *, tabs: bool, places: Sequence[str]) -> Iterator[Row | Fault]:
    """Rows one after the other; `places` are the columns given as numbers, which mean that there is no header.

    Tab-separated corpora are written unquoted: a quotation mark there belongs to the text. Commas are quoted.
    """
    lines = _tab_separated(file) if tabs else _comma_separated(file)
    names: list[str] = []
    if not places:
        _, first = next(lines, (0, None))
        if first is None:
            return
        if isinstance(first, Fault):
            raise ConfigError(f"source.path: the first line of {file.uri} must name the columns; {first.message}")
        names = [name.strip() for name in first]
    needed = max(map(int, places), default=0)
    for number, fields in lines:
        if isinstance(fields, Fault):
            yield fields
        elif places:
            if len(fields) < needed:
                yield unreadable(f"line {number} must have at least {needed} fields, found {len(fields)}")
            else:
                yield {str(place): field for place, field in enumerate(fields, 1)}
        elif len(fields) != len(names):
            yield unreadable(f"line {number} must have {len(names)} fields ({', '.join(names)}), found {len(fields)}")
        else:
            yield dict(zip(names, fields, strict=True))


def _tab_separated(file: TextFile) -> Iterator[tuple[int, list[str] | Fault]]:
    for number, line in enumerate(file.lines(), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield number, unreadable(f"line {number} must be UTF-8, found {error}")
            continue
        # A line without any field is the end of many files, not a row.
        if text:
            yield number, text.split("\t")


def _comma_separated(file: TextFile) -> Iterator[tuple[int, list[str] | Fault]]:
    # A quoted field may go over lines, so bytes that are no UTF-8 are found in the fields.
    reader: Any = csv.reader(line.decode("utf-8", "surrogateescape") + "\n" for line in file.lines())
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, unreadable(f"line {reader.line_num} must be CSV, found {error}")
            continue
        if any(not field.isascii() and _undecoded(field) for field in fields):
            yield reader.line_num, unreadable(f"line {reader.line_num} must be UTF-8, found other bytes")
        elif fields:
            yield reader.line_num, fields


def _undecoded(field: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in field)

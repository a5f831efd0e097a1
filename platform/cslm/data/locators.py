"""Addresses of recordings inside containers, so that nothing has to be unpacked.

`<uri>#bytes=<first>-<last>` is a part of a file, both ends counted as in HTTP's Range header: a member of a tar, a
value in an Arrow file. `<uri>#row=<n>&column=<name>` is the value of a column (`audio.bytes` for a field of it) in row
n, from 0, of a Parquet or Arrow file. Whatever does not end exactly so is the name of a file, with or without a '#'.
"""

import re
from dataclasses import dataclass

_LOCATOR = re.compile(r"(.+)#(?:bytes=(\d{1,18})-(\d{1,18})|row=(\d{1,18})&column=([^#&]+))", re.DOTALL)


@dataclass(frozen=True, order=True)
class Locator:
    """Where the bytes of a recording are: the whole of `uri`, or bytes [start, start + num_bytes), or a value."""

    uri: str
    start: int = 0
    num_bytes: int | None = None
    row: int | None = None
    column: str | None = None


def parse(audio: str) -> Locator:
    """What an `audio` addresses."""
    if "#" not in audio:
        return Locator(audio)
    match = _LOCATOR.fullmatch(audio)
    if match is None:
        return Locator(audio)
    uri, first, last, row, column = match.groups()
    if row is not None:
        return Locator(uri, row=int(row), column=column)
    return Locator(uri, start=int(first), num_bytes=max(0, int(last) + 1 - int(first)))


def of_bytes(uri: str, start: int, num_bytes: int) -> str:
    """The address of a part of a file."""
    return f"{uri}#bytes={start}-{start + num_bytes - 1}"


def of_row(uri: str, row: int, column: str) -> str:
    """The address of a value in a table."""
    return f"{uri}#row={row}&column={column}"


def order(audio: str) -> tuple[str, int]:
    """A key that sorts recordings in the order in which they lie in their containers."""
    found = parse(audio)
    return found.uri, found.start if found.row is None else found.row

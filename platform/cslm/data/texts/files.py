"""The files of a corpus: which there are, how far each is read, and their lines; gzip is taken off on the way."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import pyarrow as pa

from cslm import storage
from cslm.errors import ContractError

_BUFFER_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TextFile:
    """One file of a corpus, or the two files of line pairs (`partner` is the second).

    `values` are the columns that its hive folders name (`split=test`).
    """

    def __init__(self, uri: str, partner: str | None = None, values: dict[str, Any] | None = None) -> None:
        self.uri, self.partner, self.values = uri, partner, values or {}
        self.num_bytes = sum(_size(one) for one in (uri, partner) if one)
        self._open: list[pa.NativeFile] = []
        self._read = 0

    @property
    def position(self) -> int:
        """How many of `num_bytes` were read so far."""
        done = self._read + sum(int(stream.tell()) for stream in self._open)
        return min(done, self.num_bytes)

    def advance_to(self, share: float) -> None:
        """For readers that do not go by bytes: the share of the file that is done."""
        self._read = round(share * self.num_bytes)

    @contextmanager
    def open(self, uri: str | None = None) -> Iterator[io.BufferedReader]:
        """The bytes of the file, or of its partner by `uri`. Raises ContractError where a gzip file is damaged."""
        place = uri or self.uri
        with storage.open_input(place) as stream:
            self._open.append(stream)
            try:
                reader = io.BufferedReader(stream, _BUFFER_BYTES)
                if place.lower().endswith(".gz"):
                    packed = gzip.GzipFile(fileobj=cast("BinaryIO", reader), mode="rb")
                    reader = io.BufferedReader(cast("io.RawIOBase", packed), _BUFFER_BYTES)
                yield reader
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ContractError(f"{place} must be a whole gzip file, found {error}; fetch it again") from error
            finally:
                self._open.remove(stream)
                self._read += int(stream.tell())

    def lines(self, uri: str | None = None) -> Iterator[bytes]:
        """Lines without their ends; a byte-order mark is dropped. Only line feeds end a line, as `wc -l` counts."""
        with self.open(uri) as stream:
            for number, line in enumerate(stream):
                if number == 0:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                yield line.rstrip(b"\r\n")


def suffix(uri: str) -> str:
    """The last suffix of a file's name, that of compression left out, in small letters."""
    base = storage.name(uri).lower().removesuffix(".gz")
    dot = base.rfind(".")
    return base[dot:] if dot > 0 else ""


def stem(uri: str) -> str:
    """A file's name without its suffix and that of compression."""
    base = storage.name(uri)
    base = base[:-3] if base.lower().endswith(".gz") else base
    return base[: -len(suffix(uri))] or base if suffix(uri) else base


def of_folder(uri: str) -> list[TextFile]:
    """Every file below a folder, with the values that hive folders give."""
    found = []
    for file in storage.list_files(uri):
        parts = [part.partition("=") for part in file.removeprefix(uri).split("/")[:-1]]
        found.append(TextFile(file, values={column: value for column, equals, value in parts if equals}))
    return found


def _size(uri: str) -> int:
    system, path = storage.filesystem(uri)
    return int(system.get_file_info(path).size or 0)

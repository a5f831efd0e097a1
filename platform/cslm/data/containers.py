"""Parquet and Arrow files opened so that a fault of the storage is told apart from one of what is in the file.

Arrow raises OSError for damaged content too, which must not end a job as a failing disk does.
"""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cslm import storage
from cslm.plain_values import plain_only


class StorageFault(Exception):
    """An OSError that the storage raised below Arrow, which raises OSErrors for damaged content too."""


class _Watched(io.RawIOBase):
    """A file for Arrow whose own errors come through as StorageFault."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        try:
            self._stream = storage.open_input(uri)
        except OSError as error:
            raise StorageFault(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._stream.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(None if size is None or size < 0 else size))
        except OSError as error:
            raise StorageFault(error) from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_watched(uri: str) -> pa.PythonFile:
    """Open a file for Arrow's readers, whose own errors come as StorageFault."""
    return pa.PythonFile(_Watched(uri), mode="r")


def open_parquet(uri: str, buffer_bytes: int = 0) -> pq.ParquetFile:
    """A Parquet file to be read group by group; with a buffer a column is streamed instead of read whole."""
    file = pq.ParquetFile(open_watched(uri), buffer_size=buffer_bytes, pre_buffer=False)
    plain_only(file.schema_arrow, uri)
    return file


def arrow_batches(stream: Any) -> Iterator[pa.RecordBatch]:
    """Record batches of an Arrow file or stream, one after the other."""
    try:
        reader = pa.ipc.open_file(stream)
    except pa.ArrowInvalid:
        stream.seek(0)
        batches = pa.ipc.open_stream(stream)
        plain_only(batches.schema, "the Arrow stream")
        yield from batches
        return
    plain_only(reader.schema, "the Arrow file")
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)

"""Rows of Parquet files, with only the columns that a format looks at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from cslm import storage
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Row
from cslm.errors import ContractError

_BATCH_ROWS = 1024


def columns(file: TextFile) -> list[str]:
    """The names of the columns. Raises ContractError for a file that is no Parquet."""
    with _readable(file):
        return list(storage.dataset(file.uri).schema.names)


def rows(file: TextFile, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows one after the other; `columns` that the file lacks are left out. Raises ContractError for other files."""
    with _readable(file):
        table = storage.dataset(file.uri)
        num_rows = table.count_rows()
        names = table.schema.names
        wanted = names if columns is None else [name for name in names if name in columns]
        num_done = 0
        for batch in table.to_batches(columns=wanted, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1):
            num_done += batch.num_rows
            file.advance_to(num_done / max(num_rows, 1))
            yield from batch.to_pylist()


@contextmanager
def _readable(file: TextFile) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise ContractError(f"{file.uri} must be a whole Parquet file, found {error}; fetch it again") from error

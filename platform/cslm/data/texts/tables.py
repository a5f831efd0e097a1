"""Where the rows go: files of bounded size in a staging folder, put in their place together when all are written.

Whatever ends a run, a table in its place is whole: either that of an earlier run or that of this one. The staging
folder is named by what it is made from, and its record is written when it is complete; a run that finds both only
puts them in place.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cslm import contracts, storage
from cslm.data.texts.records import Row

REJECTS = "rejects"
_RECORD = "ingest.json"
# Hidden from readers of tables by its first character.
_STAGING = "_staging-"
_MAX_FILE_BYTES = 128 << 20


class Staging:
    """The staging folder of one output and one `key` (what the tables are made from)."""

    def __init__(self, output: str, key: str) -> None:
        self._output, self._key = output, key
        self._folder = storage.join(output, f"{_STAGING}{key}")
        self._record = storage.join(output, _RECORD)

    def made(self) -> dict[str, Any] | None:
        """What `complete` recorded, when the tables were made from the same before; else None."""
        if not storage.exists(self._record):
            return None
        record = storage.read_json(self._record)
        return dict(record["counts"]) if record["key"] == self._key else None

    def begin(self) -> None:
        """Delete what other runs left half-done."""
        storage.remove(self._folder)

    def writer(self, table: str, rows_per_file: int) -> "TableWriter":
        """A writer of one table."""
        return TableWriter(storage.join(self._folder, table), table, rows_per_file)

    def complete(self, writers: Sequence["TableWriter"], counts: dict[str, Any]) -> None:
        """Record that the tables are whole."""
        names = {writer.table: writer.names for writer in writers}
        storage.write_json(self._record, {"key": self._key, "tables": names, "counts": counts})

    def publish(self) -> None:
        """Put the completed tables in their place, once or again."""
        if storage.exists(self._folder):
            for table, names in storage.read_json(self._record)["tables"].items():
                storage.replace_folder(storage.join(self._folder, table), storage.join(self._output, table), names)
            storage.remove(self._folder)


class TableWriter:
    """Rows of one table -> files of at most `rows_per_file` rows."""

    def __init__(self, folder: str, table: str, rows_per_file: int) -> None:
        self.table = table
        self.names: list[str] = []
        self._folder, self._rows_per_file = folder, rows_per_file
        self._contract = contracts.load(table)
        self._waiting: list[pa.Table] = []
        self._num_waiting = self._bytes_waiting = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows in order. Raises ContractError when they do not keep the table's contract."""
        rest = self._contract.table(rows)
        while rest.num_rows:
            taken = rest.slice(0, self._rows_per_file - self._num_waiting)
            rest = rest.slice(taken.num_rows)
            self._waiting.append(taken)
            self._num_waiting += taken.num_rows
            self._bytes_waiting += taken.nbytes
            if self._num_waiting == self._rows_per_file or self._bytes_waiting >= _MAX_FILE_BYTES:
                self.close()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            name = f"part-{len(self.names):05d}.parquet"
            storage.write_table(pa.concat_tables(self._waiting), storage.join(self._folder, name))
            self.names.append(name)
            self._waiting, self._num_waiting, self._bytes_waiting = [], 0, 0

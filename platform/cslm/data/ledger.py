"""Which shards are done, and where the tables of a shard lie.

The files of a shard have names that follow from the shard; its entry in the ledger is written after them. A run
begins by deleting table files without an entry, so that whatever ended the last one, and wherever, every row of the
tables belongs to a finished shard and redoing the others doubles nothing. No row is read to find that out.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cslm import contracts, storage
from cslm.config import fingerprint

_SHARD_FILE = re.compile(r"(?:duplicate-)?(shard-\d+)(?:-\d+)?\.parquet")
# Requests to an object store take tens of milliseconds each: many at a time keep the start within seconds.
_REQUESTS_AT_ONCE = 32

Entry = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The ledger of one output folder. `work` is what shapes a shard's result besides its rows (tokenizer, limits)."""

    output: str
    work: str
    # Which tables its shards write, and which shard wrote a file, by the file's path within its table.
    tables: tuple[str, ...] = ("units", "rejects", "duplicates")
    shard_of: Callable[[str], str | None] = field(default=lambda path: shard_of(path))

    def key(self, shard: Entry) -> str:
        """An entry with another key was made from other rows or by other settings and does not count."""
        return fingerprint([shard["digest"], self.work])

    def done(self, shards: Sequence[Entry]) -> dict[str, Entry]:
        """Entries of the finished shards by name."""
        wanted = {shard["name"]: self.key(shard) for shard in shards}
        paths = storage.list_files(self._folder, ".json")
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            entries = list(pool.map(storage.read_json, paths))
        return {entry["shard"]: entry for entry in entries if wanted.get(entry["shard"]) == entry["key"]}

    def begin(self, done: Iterable[str]) -> None:
        """Delete entries and table files of every shard that is not among `done`."""
        names = set(done)
        entries = storage.list_files(self._folder, ".json")
        stale = [path for path in entries if storage.name(path).removesuffix(".json") not in names]
        for table in self.tables:
            folder = storage.join(self.output, table)
            for path in storage.list_files(folder, ".parquet"):
                shard = self.shard_of(path.removeprefix(folder).strip("/"))
                if shard is not None and shard not in names:
                    stale.append(path)
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            list(pool.map(storage.remove, stale))

    def record(self, shard: Entry, counts: Entry) -> Entry:
        """Mark a shard as done, all its tables being written; returns its entry."""
        place = {"shard": shard["name"], "language": shard["language"], "split": shard["split"]}
        entry = {**place, "key": self.key(shard), **counts}
        # On one line: pretty-printing would give each count of a large codebook a line of its own.
        path = storage.join(self._folder, f"{shard['name']}.json")
        storage.write_text(path, json.dumps(entry) + "\n")
        return entry

    @property
    def _folder(self) -> str:
        return storage.join(self.output, "ledger")


def write_piece(output: str, shard: Entry, piece: int, units: pa.Table, rejects: pa.Table) -> None:
    """Write the tables of one piece of a shard under the names that belong to it."""
    path = units_file(output, shard, piece)
    name = storage.name(path)
    if units.num_rows:
        contract = contracts.load("units")
        table = contract.check(units, name).drop_columns(list(contract.partition_columns))
        storage.write_table(table, path)
    if rejects.num_rows:
        table = contracts.load("rejects").check(rejects, name)
        storage.write_table(table, storage.join(output, "rejects", name))


def units_file(output: str, shard: Entry, piece: int) -> str:
    """Where the units of a piece of a shard lie."""
    name = f"{shard['name']}.parquet" if piece == 0 else f"{shard['name']}-{piece:03d}.parquet"
    folders = [f"{column}={shard[column]}" for column in contracts.load("units").partition_columns]
    return storage.join(output, "units", *folders, name)


def shard_of(path: str) -> str | None:
    """The shard that a table file belongs to, None for files of no shard."""
    match = _SHARD_FILE.fullmatch(storage.name(path))
    return match[1] if match else None


def add_counts(left: Entry, right: Entry) -> Entry:
    """Add up counts: numbers, lists position by position, mappings key by key."""
    total = dict(left)
    for name, value in right.items():
        if name not in total:
            total[name] = value
        elif isinstance(value, dict):
            total[name] = add_counts(total[name], value)
        elif isinstance(value, list):
            total[name] = [a + b for a, b in zip(total[name], value, strict=True)]
        else:
            total[name] += value
    return total


def negative(counts: Entry) -> Entry:
    """The counts that take `counts` away again when `add_counts` adds them."""
    return {name: _negated(value) for name, value in counts.items()}


def _negated(value: Any) -> Any:
    if isinstance(value, dict):
        return negative(value)
    return [-one for one in value] if isinstance(value, list) else -value

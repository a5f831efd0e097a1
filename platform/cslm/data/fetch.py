"""Addresses of recordings -> their bytes, read ahead of whoever decodes them.

Neighbours in a container come with one large read, the rows of a Parquet row group with one pass over it, many small
files with several requests at a time. What is held ahead is bounded in bytes, not in files: recordings differ a
thousandfold. A recording that is not there is an AudioError; a storage that fails is an OSError and is raised.
"""

import errno
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from cslm import storage
from cslm.data.containers import StorageFault, arrow_batches, open_parquet, open_watched
from cslm.data.locators import Locator, parse
from cslm.errors import AudioError

AHEAD_BYTES = 64 << 20
_REQUESTS_AT_ONCE = 16
# One read of a container: gaps up to a size are read over, as another request would take longer.
_MAX_READ_BYTES, _MAX_GAP_BYTES = 8 << 20, 256 << 10
# Of a row group as much is decoded at a time.
_TABLE_BYTES = 8 << 20


@dataclass(frozen=True)
class Fetched:
    """A recording: its bytes and their SHA-256."""

    data: bytes
    sha256: str


Result = Fetched | AudioError


def fetch(audio: str) -> Fetched:
    """The bytes that an `audio` addresses. Raises AudioError where there are none, OSError where storage fails."""
    [result] = _fetched([audio])
    if isinstance(result, AudioError):
        raise result
    return result


def fetch_all(addresses: Iterable[str], ahead_bytes: int = AHEAD_BYTES) -> Generator[Result, None, None]:
    """What each address has, in order, fetched ahead by a thread until `ahead_bytes` wait to be taken.

    Addresses should stand as `locators.order` sorts them. Close the generator when it is left early.
    """
    return _ahead(_fetched(addresses), ahead_bytes)


def _fetched(addresses: Iterable[str]) -> Iterator[Result]:
    def kind(locator: Locator) -> tuple[str, ...]:
        if locator.row is not None:
            return ("row", locator.uri, str(locator.column))
        return ("file",) if locator.num_bytes is None else ("bytes", locator.uri)

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        for (how, *_), found in groupby(map(parse, addresses), key=kind):
            if how == "file":
                for results in _in_order(pool, _file, found):
                    yield from results
            elif how == "bytes":
                for results in _in_order(pool, _read_spans, _coalesced(found)):
                    yield from results
            else:
                yield from _values(list(found))


def _in_order(
    pool: ThreadPoolExecutor, read: Callable[[Any], list[Result]], items: Iterable[Any]
) -> Iterator[list[Result]]:
    """Results of `read` in order. As many are under way as fit half of AHEAD_BYTES by the largest one seen."""
    pending: deque[Future[list[Result]]] = deque()
    largest, at_once = 1, 4
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            while len(pending) >= at_once:
                results = pending.popleft().result()
                largest = max(largest, sum(len(one.data) for one in results if isinstance(one, Fetched)))
                at_once = max(1, min(_REQUESTS_AT_ONCE, AHEAD_BYTES // 2 // largest))
                yield results
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _file(locator: Locator) -> list[Result]:
    try:
        return [_whole(_read(locator.uri, lambda: storage.read_bytes(locator.uri)))]
    except AudioError as error:
        return [error]


def _coalesced(locators: Iterable[Locator]) -> Iterator[list[Locator]]:
    """Parts of one file in groups, each to be read at once."""
    group: list[Locator] = []
    first = end = 0
    for one in locators:
        stop = one.start + (one.num_bytes or 0)
        if group and (one.start < end or one.start > end + _MAX_GAP_BYTES or stop - first > _MAX_READ_BYTES):
            yield group
            group = []
        if not group:
            first = one.start
        group.append(one)
        end = stop
    if group:
        yield group


def _read_spans(group: Sequence[Locator]) -> list[Result]:
    uri, first = group[0].uri, group[0].start
    num_bytes = group[-1].start + (group[-1].num_bytes or 0) - first
    try:
        data = memoryview(_read(uri, lambda: storage.read_range(uri, first, num_bytes)))
    except AudioError as error:
        return [error] * len(group)
    results: list[Result] = []
    for one in group:
        start, wanted = one.start - first, one.num_bytes or 0
        part = bytes(data[start : start + wanted])
        if len(part) < wanted:
            found = f"an end at byte {first + len(data)}"
            results.append(_missing(f"bytes {one.start} to {one.start + wanted - 1} of {uri}", found))
        else:
            results.append(_whole(part))
    return results


def _values(locators: Sequence[Locator]) -> Iterator[Result]:
    """Values of one column of a table, rows ascending; what is broken is a fault of the rows that are not there yet."""
    uri, column = locators[0].uri, str(locators[0].column)
    place = f"{column} in {uri}"
    done = 0
    try:
        for row, value in _table_rows(uri, column, [int(one.row or 0) for one in locators]):
            data = value.as_py() if value is not None else None
            at = f"bytes in row {row} of {place}"
            yield _whole(data) if isinstance(data, bytes) else _missing(at, "nothing" if data is None else "no bytes")
            done += 1
    except StorageFault as error:
        missing = _absent(error.args[0], uri)
        if missing is None:
            raise storage.named(error.args[0], uri) from error
        yield from [missing] * (len(locators) - done)
    except (pa.ArrowException, OSError, KeyError, EOFError) as error:
        message = f"a table must be readable, found {uri} damaged or without {column}: {error}; copy the file again"
        yield from [AudioError("corrupt", message)] * (len(locators) - done)


def _table_rows(uri: str, column: str, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(row, Arrow scalar) for each of some rows in ascending order; None for a row past the end."""
    wanted = deque(rows)
    for first, values in _columns(uri, column, rows):
        while wanted and wanted[0] < first + len(values):
            row = wanted.popleft()
            if row < first:
                raise KeyError(f"rows must be asked for in order, found {row} after {first}")
            yield row, values[row - first]
        if not wanted:
            return
    for row in wanted:
        yield row, None


def _columns(uri: str, column: str, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(first row, values) of the parts of a table that hold some of the rows."""
    first = 0
    if not uri.lower().endswith(".parquet"):
        with open_watched(uri) as stream:
            for batch in arrow_batches(stream):
                yield first, _leaf(batch, column)
                first += batch.num_rows
        return
    file = open_parquet(uri, _TABLE_BYTES)
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if any(first <= row < first + group.num_rows for row in rows):
            sizes = [group.column(i) for i in range(group.num_columns)]
            size = sum(one.total_uncompressed_size for one in sizes if one.path_in_schema == column)
            # Few rows at a time where they are large.
            batch_rows = max(1, int(_TABLE_BYTES / max(1, size / max(1, group.num_rows))))
            place = first
            for batch in file.iter_batches(min(batch_rows, group.num_rows), [number], [column]):
                yield place, _leaf(batch, column)
                place += batch.num_rows
        first += group.num_rows


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    name, _, inner = column.partition(".")
    if column in batch.schema.names:
        return batch.column(column)
    return pa.compute.struct_field(batch.column(name), inner)


def _read(uri: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except ValueError as error:  # no path at all: an unknown scheme, a zero byte
        raise _missing(f"an audio file at {uri}", str(error)) from error
    except OSError as error:
        missing = _absent(error, uri)
        if missing is not None:
            raise missing from error
        raise storage.named(error, uri) from error


def _absent(error: OSError, uri: str) -> AudioError | None:
    """What to tell of a row whose file is not there; None when the storage failed."""
    place = f"an audio file at {uri}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _missing(place, "nothing")
    if isinstance(error, IsADirectoryError):
        return _missing(place, "a folder")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return _missing(place, str(error))
    return None


def _missing(place: str, found: str) -> AudioError:
    return AudioError("missing", f"there must be {place}, found {found}; bring the file or drop the row")


def _whole(data: bytes) -> Fetched:
    return Fetched(data, hashlib.sha256(data).hexdigest())


def _ahead(results: Iterator[Result], limit: int) -> Generator[Result, None, None]:
    """The same results, taken from `results` by a thread while fewer than `limit` bytes wait here."""
    ready: deque[Result] = deque()
    held = 0
    closed = ended = False
    failure: BaseException | None = None
    changed = threading.Condition()

    def has_room() -> bool:
        return not ready or held < limit or closed

    def produce() -> None:
        nonlocal held, ended, failure
        try:
            for result in results:
                with changed:
                    changed.wait_for(has_room)
                    if closed:
                        break
                    ready.append(result)
                    held += _size(result)
                    changed.notify_all()
        except BaseException as error:
            failure = error
        finally:
            with changed:
                ended = True
                changed.notify_all()

    def has_result() -> bool:
        return bool(ready) or ended

    thread = threading.Thread(target=produce, name="fetch", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(has_result)
                if not ready:
                    break
                result = ready.popleft()
                held -= _size(result)
                changed.notify_all()
            yield result
        if failure is not None:
            raise failure
    finally:
        with changed:
            closed = True
            changed.notify_all()
        thread.join()


def _size(result: Result) -> int:
    return len(result.data) if isinstance(result, Fetched) else 0

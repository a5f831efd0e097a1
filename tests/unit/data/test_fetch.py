import hashlib
import io
import threading
import time
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cslm import storage
from cslm.data import fetch, locators
from cslm.errors import AudioError
from tests.data import layouts


@pytest.fixture
def blob(tmp_path):
    data = bytes(range(256)) * 4096
    (tmp_path / "x#1.tar").write_bytes(data)
    return f"{tmp_path}/x#1.tar", data


@pytest.fixture
def reads(monkeypatch):
    """(start, num_bytes) of every ranged read."""
    seen, read = [], storage.read_range
    monkeypatch.setattr(
        storage, "read_range", lambda uri, start, size: seen.append((start, size)) or read(uri, start, size)
    )
    return seen


def contents(addresses, **settings):
    with closing(fetch.fetch_all(addresses, **settings)) as results:
        return [one.data if isinstance(one, fetch.Fetched) else one.reason for one in results]


def test_files_come_in_order_with_their_digest_and_missing_ones_stay_in_place(tmp_path):
    names = [f"{tmp_path}/{n} #{n}.wav" for n in range(100)]
    for n, name in enumerate(names):
        if n % 7:
            storage.write_bytes(name, b"%d" % n)
    with closing(fetch.fetch_all(names)) as results:
        found = list(results)
    for n, one in enumerate(found):
        if n % 7:
            assert one == fetch.Fetched(b"%d" % n, hashlib.sha256(b"%d" % n).hexdigest())
        else:
            assert isinstance(one, AudioError)
            assert names[n] in str(one)


def test_neighbours_in_a_container_are_read_at_once(blob, reads):
    uri, data = blob
    spans = [(n * 10_000, 9_000) for n in range(100)]
    assert contents([locators.of_bytes(uri, *span) for span in spans]) == [data[a : a + n] for a, n in spans]
    assert reads == [(0, 999_000)]


def test_what_lies_far_apart_or_is_large_together_is_read_apart(blob, reads, monkeypatch):
    uri, data = blob
    monkeypatch.setattr(fetch, "_MAX_READ_BYTES", 50_000)
    monkeypatch.setattr(fetch, "_MAX_GAP_BYTES", 1_000)
    spans = [(0, 20_000), (21_000, 20_000), (50_000, 10), (50_100, 49_800), (100_000, 200_000), (0, 5), (3, 5)]
    assert contents([locators.of_bytes(uri, *span) for span in spans]) == [data[a : a + n] for a, n in spans]
    assert sorted(reads) == [(0, 5), (0, 41_000), (3, 5), (50_000, 49_900), (100_000, 200_000)]


def test_bytes_that_are_not_there_are_a_fault_of_their_row(blob, tmp_path):
    uri, data = blob
    addresses = [locators.of_bytes(uri, *span) for span in ((0, 10), (len(data) - 5, 5), (len(data) - 5, 6))]
    addresses += [locators.of_bytes(uri, len(data) + 9, 5), locators.of_bytes(f"{tmp_path}/none.tar", 0, 5)]
    assert contents(addresses) == [data[:10], data[-5:], "missing", "missing", "missing"]
    with pytest.raises(AudioError, match=f"found an end at byte {len(data)}"):
        fetch.fetch(addresses[2])


@pytest.fixture
def parquet(tmp_path):
    table, clips = layouts.audio_table(0, 30)
    path = f"{tmp_path}/t.parquet"
    pq.write_table(table, path, row_group_size=8)
    return path, clips


def test_a_row_group_is_gone_through_once_for_all_of_its_rows(parquet, monkeypatch):
    path, clips = parquet
    seen, iterate = [], pq.ParquetFile.iter_batches

    def counted(self, size, groups, columns):
        seen.append((*groups, *columns))
        return iterate(self, size, groups, columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    rows = [0, 1, 1, 7, 8, 29]
    assert contents([locators.of_row(path, row, "audio.bytes") for row in rows]) == [clips[row] for row in rows]
    assert seen == [(group, "audio.bytes") for group in (0, 1, 3)]


def test_large_values_are_decoded_a_few_at_a_time(parquet, monkeypatch):
    path, clips = parquet
    monkeypatch.setattr(fetch, "_TABLE_BYTES", 3 * len(clips[0]))
    assert contents([locators.of_row(path, row, "audio.bytes") for row in range(30)]) == clips


def test_rows_that_are_not_there_are_faults_of_their_own(parquet, tmp_path):
    path, clips = parquet
    addresses = [locators.of_row(path, row, "audio.bytes") for row in (3, 30, 99)]
    addresses += [locators.of_row(path, 0, column) for column in ("sentence", "audio.path", "nothing", "audio.nothing")]
    addresses += [locators.of_row(f"{tmp_path}/none.parquet", 0, "audio")]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    addresses += [locators.of_row(f"{tmp_path}/broken.parquet", 0, "audio")]
    found = contents(addresses)
    assert found == [clips[3], "missing", "missing", "missing", "missing", "corrupt", "corrupt", "missing", "corrupt"]


def test_damage_in_a_table_costs_the_rows_behind_it(parquet):
    path, clips = parquet
    data = bytearray(storage.read_bytes(path))
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 200] = bytes(200)
    storage.write_bytes(path, bytes(data))
    found = contents([locators.of_row(path, row, "audio.bytes") for row in range(30)])
    assert found[:16] == clips[:16]
    assert set(found[16:]) == {"corrupt"}


def test_a_storage_that_fails_below_a_table_is_no_fault_of_a_row(parquet, monkeypatch):
    path, _ = parquet
    opened = storage.open_input

    class Failing(io.RawIOBase):
        def __init__(self, uri):
            self._stream = opened(uri)

        def seek(self, *place):
            return self._stream.seek(*place)

        def tell(self):
            return self._stream.tell()

        def read(self, size=-1):
            if self._stream.tell() < 1000:
                raise OSError("AWS Error NETWORK_CONNECTION")
            return self._stream.read(size)

    monkeypatch.setattr(storage, "open_input", Failing)
    with pytest.raises(OSError, match=r"t\.parquet: AWS Error"):
        contents([locators.of_row(path, 0, "audio.bytes")])


@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
def test_rows_of_packed_arrow_are_found(kind, tmp_path):
    table, clips = layouts.audio_table(0, 9)
    path = f"{tmp_path}/t.arrow"
    with kind(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize=4)
    rows = [0, 3, 4, 8]
    assert contents([locators.of_row(path, row, "audio.bytes") for row in rows]) == [clips[row] for row in rows]


def test_no_more_is_held_than_allowed_and_one_is_always(tmp_path, monkeypatch):
    names = [f"{tmp_path}/{n}" for n in range(40)]
    for name in names:
        storage.write_bytes(name, bytes(1000))
    taken, ahead = 0, []
    read = storage.read_bytes
    started = []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: started.append(uri) or read(uri))
    monkeypatch.setattr(fetch, "AHEAD_BYTES", 3000)
    with closing(fetch.fetch_all(names, ahead_bytes=2500)) as results:
        for _ in results:
            taken += 1
            ahead.append(len(started) - taken)
    assert taken == 40
    # Three wait, one is about to be put there, and at first four and then three requests are under way.
    assert max(ahead) <= 8
    assert contents(names[:3], ahead_bytes=0) == [bytes(1000)] * 3


def test_requests_run_side_by_side(tmp_path, monkeypatch):
    together = threading.Barrier(4, timeout=20)
    monkeypatch.setattr(storage, "read_bytes", lambda uri: b"%d" % (together.wait() < 4))
    assert contents([f"{n}" for n in range(8)]) == [b"1"] * 8


def test_a_failure_comes_after_what_was_read_before_it(tmp_path, monkeypatch):
    def failing(uri):
        if uri.endswith("5"):
            raise ConnectionResetError(104, "Connection reset by peer")
        return uri.encode()

    monkeypatch.setattr(storage, "read_bytes", failing)
    with closing(fetch.fetch_all("0123456789")) as results:
        assert [next(results).data for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        with pytest.raises(ConnectionResetError, match=r": 5$"):
            next(results)


def test_leaving_early_ends_the_thread(tmp_path):
    for n in range(50):
        storage.write_bytes(f"{tmp_path}/{n}", bytes(1000))
    results = fetch.fetch_all([f"{tmp_path}/{n}" for n in range(50)], ahead_bytes=1)
    next(results)
    results.close()
    deadline = time.monotonic() + 20
    while any(thread.name == "fetch" for thread in threading.enumerate()) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]

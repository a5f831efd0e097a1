import pytest

from cslm import storage
from cslm.data.texts import tables
from cslm.data.texts.tables import Staging
from cslm.errors import ContractError


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def pair(number):
    return {"id": f"{number}", "source_language": "en", "target_language": "es", "source": f"{number}", "target": "x"}


def fill(staging, numbers, rows_per_file=4):
    staging.begin()
    writer, rejects = staging.writer("parallel_text", rows_per_file), staging.writer("rejects", 10)
    for start in range(0, len(numbers), 3):
        writer.add([pair(number) for number in numbers[start : start + 3]])
    writer.close()
    staging.complete([writer, rejects], {"rows": len(numbers)})
    return writer


def ids(output):
    files = storage.list_files(storage.join(output, "parallel_text"))
    return [storage.read_table(file).column("id").to_pylist() for file in files]


def test_files_are_of_bounded_size_and_appear_together(output):
    staging = Staging(output, "key")
    assert staging.made() is None
    fill(staging, range(10))
    assert storage.list_files(output, ".parquet") == []
    staging.publish()
    assert ids(output) == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    assert not storage.exists(storage.join(output, "_staging-key"))
    assert staging.made() == {"rows": 10}
    assert Staging(output, "other").made() is None


def test_a_file_ends_early_when_its_texts_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_MAX_FILE_BYTES", 1)
    writer = fill(Staging(str(tmp_path), "key"), range(10))
    assert len(writer.names) == 4


def test_tables_made_anew_replace_all_files_of_the_old_ones(output):
    for key, numbers in (("one", range(20)), ("two", range(50, 53))):
        staging = Staging(output, key)
        fill(staging, numbers)
        staging.publish()
    assert ids(output) == [["50", "51", "52"]]


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_putting_tables_in_their_place_goes_on_where_it_was_stopped(output, stop_at, monkeypatch):
    old = Staging(output, "old")
    fill(old, range(100, 110), rows_per_file=3)
    old.publish()
    staging = Staging(output, "key")
    fill(staging, range(10))
    real, calls = storage.remove, []

    def fail_once(uri):
        calls.append(uri)
        if len(calls) == stop_at + 1:
            raise OSError("gone")
        real(uri)

    monkeypatch.setattr(storage, "remove", fail_once)
    with pytest.raises(OSError, match="gone"):
        staging.publish()
    again = Staging(output, "key")
    assert again.made() == {"rows": 10}
    for _ in range(2):
        again.publish()
        assert ids(output) == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]


def test_what_was_not_completed_is_not_taken(tmp_path):
    staging = Staging(str(tmp_path), "key")
    writer = staging.writer("parallel_text", 2)
    writer.add([pair(number) for number in range(5)])
    assert Staging(str(tmp_path), "key").made() is None
    fill(Staging(str(tmp_path), "key"), range(3))
    Staging(str(tmp_path), "key").publish()
    assert ids(str(tmp_path)) == [["0", "1", "2"]]


def test_rows_keep_the_contract(tmp_path):
    with pytest.raises(ContractError, match="source_language"):
        Staging(str(tmp_path), "key").writer("parallel_text", 2).add([pair(1) | {"source_language": None}])

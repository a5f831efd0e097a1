import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from cslm import storage, storage_faults
from cslm.errors import ConfigError

# Where Ray unpacks a submitted working directory.
RAY_COPY = "session_1/runtime_resources/working_dir_files/_ray_pkg_1"
TABLE = pa.table({"id": ["a", "b", "c"], "size": pa.array([1, 2, 3], pa.int32())})


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(storage.HOME_VARIABLE, raising=False)
    return monkeypatch


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_relative_paths_hang_from_home_or_from_here(tmp_path: Path, home: pytest.MonkeyPatch) -> None:
    home.chdir(tmp_path)
    assert storage.absolute("runs/x") == f"{tmp_path}/runs/x"
    home.setenv(storage.HOME_VARIABLE, "/data/results")
    assert storage.absolute("runs/../x") == "/data/results/x"
    home.setenv(storage.HOME_VARIABLE, "s3://bucket/results/")
    assert storage.absolute("runs/x") == "s3://bucket/results/runs/x"
    home.setenv(storage.HOME_VARIABLE, "below")
    assert storage.absolute("x") == f"{tmp_path}/below/x"


def test_absolute_paths_and_uris_stay(home: pytest.MonkeyPatch) -> None:
    home.setenv(storage.HOME_VARIABLE, "/data/results")
    assert storage.absolute("/data//corpus/") == "/data/corpus"
    assert storage.absolute("s3://bucket/corpus/") == "s3://bucket/corpus"
    assert storage.absolute("gs://bucket/corpus") == "gs://bucket/corpus"


def test_a_relative_path_in_rays_copy_is_refused(tmp_path: Path, home: pytest.MonkeyPatch) -> None:
    copy = tmp_path / RAY_COPY
    copy.mkdir(parents=True)
    home.chdir(copy)
    for value in ("", "relative"):
        home.setenv(storage.HOME_VARIABLE, value)
        with pytest.raises(ConfigError, match=storage.HOME_VARIABLE):
            storage.absolute("runs/x")
    assert storage.absolute("/results") == "/results"
    home.setenv(storage.HOME_VARIABLE, "/data/results")
    assert storage.absolute("runs/x") == "/data/results/runs/x"


def test_paths_are_put_together_and_taken_apart() -> None:
    assert storage.join("s3://bucket/a/", "/b/", "c") == "s3://bucket/a/b/c"
    assert (storage.parent("s3://bucket/a/b"), storage.name("s3://bucket/a/b/")) == ("s3://bucket/a", "b")
    assert (storage.parent("/a"), storage.name("/a")) == ("/", "a")


def test_bytes_text_json_and_yaml_come_back(tmp_path: Path) -> None:
    file = str(tmp_path / "new" / "folder" / "file")
    storage.write_bytes(file, b"\x00\xff")
    assert storage.read_bytes(file) == b"\x00\xff"
    storage.write_text(file, "größe 大小")
    assert storage.read_text(file) == "größe 大小"
    storage.write_json(file, {"大": [1, None]})
    assert storage.read_json(file) == {"大": [1, None]} == storage.read_yaml(file)
    storage.write_bytes(file, "\ufefftext".encode())
    assert storage.read_text(file) == "text"


def test_bytes_are_written_as_they_are_whatever_the_name(tmp_path: Path) -> None:
    for base in (str(tmp_path), f"file://{tmp_path}"):
        storage.write_bytes(f"{base}/file.gz", b"packed already")
        assert storage.read_bytes(f"{base}/file.gz") == b"packed already"


def test_input_is_seekable_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with storage.open_input(str(tmp_path / "file")) as stream:
        stream.seek(7)
        assert stream.read() == b"789"
    with pytest.raises(FileNotFoundError):
        storage.open_input(str(tmp_path / "none"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, table = tmp_path / "file", tmp_path / "table.parquet"
    storage.write_bytes(str(file), b"old")
    storage.write_table(TABLE, str(table))

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(data[:1])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="no space"):
        storage.write_bytes(str(file), b"new")
    monkeypatch.undo()
    # The first row group is written when the second one turns out not to fit.
    with pytest.raises(ValueError, match="schema"):
        storage.write_row_groups([TABLE.slice(1), TABLE.select(["id"])], str(table))
    assert storage.read_bytes(str(file)) == b"old"
    assert storage.read_table(str(table)).equals(TABLE)
    assert tree(tmp_path) == ["file", "table.parquet"]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(tmp_path / "file")
    storage.write_bytes(file, b"old")
    seen = []
    replace = Path.replace

    def look_first(self: Path, target: Path) -> Path:
        seen.append((storage.read_bytes(file), storage.list_files(str(tmp_path))))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look_first)
    storage.write_bytes(file, b"new")
    assert seen == [(b"old", [file])]
    assert storage.read_bytes(file) == b"new"


def test_a_write_is_tried_again_when_it_may_succeed_and_tells_its_file_when_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "_PAUSES_S", (0, 0, 0))
    failures = [errno.ESTALE, errno.EIO]
    write = Path.write_bytes

    def failing(self: Path, data: bytes) -> int:
        if failures:
            raise OSError(failures.pop(), "not now")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    storage.write_bytes(f"{tmp_path}/file", b"123")
    assert storage.read_bytes(f"{tmp_path}/file") == b"123"
    failures += [errno.EIO, errno.ENOSPC]
    with pytest.raises(OSError, match=f"not now: {tmp_path}/file") as caught:
        storage.write_bytes(f"{tmp_path}/file", b"456")
    assert caught.value.errno == errno.ENOSPC
    assert failures == [errno.EIO]
    assert tree(tmp_path) == ["file"]


@pytest.mark.parametrize("read", [storage.read_bytes, lambda uri: storage.read_range(uri, 0, 3)])
def test_a_disk_that_answers_the_next_time_is_asked_again(
    read: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{tmp_path}/file", b"123")
    monkeypatch.setattr(storage_faults, "_PAUSES_S", (0, 0, 0))
    failures = [errno.ESTALE, errno.EIO, errno.EIO]
    opened = Path.open

    def failing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "transient")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    assert read(f"{tmp_path}/file") == b"123"
    failures += [errno.EIO] * 5
    with pytest.raises(OSError, match="transient"):
        read(f"{tmp_path}/file")
    assert len(failures) == 1
    # Tells that the answer would be the same.
    failures[:] = [errno.EIO, errno.EACCES]
    with pytest.raises(PermissionError):
        read(f"{tmp_path}/file")
    assert len(failures) == 1


def test_parts_of_a_file_end_with_it(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/file", bytes(range(100)))
    assert storage.read_range(f"{tmp_path}/file", 10, 5) == bytes(range(10, 15))
    assert storage.read_range(f"{tmp_path}/file", 98, 5) == bytes([98, 99])
    assert storage.read_range(f"{tmp_path}/file", 200, 5) == b""


def test_what_lies_right_in_a_folder_is_listed_apart_from_what_lies_deeper(tmp_path: Path) -> None:
    for name in ("b", "a/c", ".d", "_e/f"):
        storage.write_bytes(f"{tmp_path}/{name}", b"12")
    folders, files = storage.list_folder(str(tmp_path))
    assert (folders, [(file.uri, file.size) for file in files]) == (["a"], [(f"{tmp_path}/b", 2)])
    assert storage.entry(f"{tmp_path}/b") == files[0]
    assert storage.entry(f"{tmp_path}/a") is None
    assert storage.entry(f"{tmp_path}/none") is None
    assert storage.list_folder(f"{tmp_path}/none") == ([], [])


def test_listing_is_recursive_sorted_and_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/c.parquet", "a/d.json", "_tmp/e.parquet", ".f.parquet", "a/_SUCCESS", ".g/h.parquet"):
        storage.write_bytes(str(tmp_path / name), b"")
    assert storage.list_files(str(tmp_path), ".parquet") == [f"{tmp_path}/a/c.parquet", f"{tmp_path}/b.parquet"]
    assert len(storage.list_files(str(tmp_path))) == 3
    assert storage.list_files(str(tmp_path / "none")) == []


def test_a_folder_below_a_hidden_one_is_listed(tmp_path: Path) -> None:
    folder = str(tmp_path / ".cache" / "_data")
    storage.write_bytes(f"{folder}/x.parquet", b"")
    assert storage.list_files(folder) == [f"{folder}/x.parquet"]


def test_a_hive_partitioned_table_is_read_with_its_folders_as_text_columns(tmp_path: Path) -> None:
    for language, split, size in (("en", "train", 1), ("zh-CN", "train", 2), ("en", "001", 3)):
        part = pa.table({"id": [f"{language}{size}"], "size": [size]})
        storage.write_table(part, f"{tmp_path}/units/language={language}/split={split}/part-0.parquet")
    table = storage.read_table(str(tmp_path / "units")).sort_by("size")
    assert table.column("language").to_pylist() == ["en", "zh-CN", "en"]
    assert table.column("split").to_pylist() == ["train", "train", "001"]
    chosen = storage.read_table(str(tmp_path / "units"), ["id"], pads.field("language") == "en")
    assert sorted(chosen.column("id").to_pylist()) == ["en1", "en3"]
    assert chosen.column_names == ["id"]


def test_a_table_may_be_one_file_or_a_list_of_files(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{place}.parquet") for place in range(2)]
    for file in files:
        storage.write_table(TABLE, file)
    assert storage.read_table(files[0]).equals(TABLE)
    assert storage.read_table(files).num_rows == 6
    assert pq.ParquetFile(files[0]).metadata.row_group(0).column(0).compression == "ZSTD"


def test_tables_written_together_are_the_row_groups_of_one_file(tmp_path: Path) -> None:
    file = str(tmp_path / "rows.parquet")
    storage.write_row_groups([TABLE, TABLE.slice(1)], file)
    assert [pq.ParquetFile(file).metadata.row_group(place).num_rows for place in range(2)] == [3, 2]
    assert storage.read_table(file).equals(pa.concat_tables([TABLE, TABLE.slice(1)]))


def test_a_folder_without_tables_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold Parquet files"):
        storage.read_table(str(tmp_path))


def test_files_and_folders_are_removed_and_absent_ones_are_no_fault(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "a/b"), "x")
    storage.write_text(str(tmp_path / "c"), "x")
    for name in ("a", "c", "none"):
        storage.remove(str(tmp_path / name))
    assert tree(tmp_path) == []


def test_digest_of_a_listing_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    folder = str(tmp_path)
    storage.write_text(f"{folder}/a", "x")
    seen = [storage.listing_digest(folder)]
    assert storage.listing_digest(folder) == seen[0]
    os.utime(f"{folder}/a", ns=(1, 1))
    seen.append(storage.listing_digest(folder))
    storage.write_text(f"{folder}/b", "")
    seen.append(storage.listing_digest(folder))
    assert len(set(seen)) == 3
    assert storage.listing_digest(folder, ".parquet") != seen[2]


def test_a_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    storage.write_text(f"{target}/old", "1")

    def fill_and_fail() -> None:
        with storage.published_folder(str(target)) as folder:
            storage.write_text(f"{folder}/new", "2")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fill_and_fail()
    assert tree(tmp_path) == ["model", "model/old"]
    with storage.published_folder(str(target)) as folder:
        storage.write_text(f"{folder}/new", "2")
        assert tree(target) == ["old"]
    assert tree(tmp_path) == ["model", "model/new"]


def test_a_local_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    with storage.local_folder(str(tmp_path)) as folder:
        assert folder == str(tmp_path)
    storage.write_text(f"{tmp_path}/a/b", "x")
    with storage.local_folder(f"file://{tmp_path}") as folder:
        assert folder != str(tmp_path)
        assert Path(folder, "a/b").read_text() == "x"
    assert not Path(folder).exists()


def test_a_folder_takes_the_place_of_another_and_again_after_an_interruption(tmp_path: Path) -> None:
    source, target = f"{tmp_path}/new", f"{tmp_path}/table"
    storage.write_text(f"{target}/a", "old")
    storage.write_text(f"{target}/c", "old")
    for name in ("a", "b"):
        storage.write_text(f"{source}/{name}", "new")
    for _ in range(2):
        storage.replace_folder(source, target, ["a", "b"])
        assert storage.list_files(target) == [f"{target}/a", f"{target}/b"]
        assert storage.read_text(f"{target}/a") == "new"
    storage.replace_folder(source, target, [])
    assert not storage.exists(target)


def test_a_file_moves_over_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        storage.write_text(str(tmp_path / name), name)
    storage.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert storage.read_text(str(tmp_path / "b")) == "a"
    assert tree(tmp_path) == ["b"]

"""Storage against a server of Google's interface."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pyarrow as pa
import pytest

from cslm import filesystems, storage
from tests.data import google_store
from tests.data.google_store import BUCKET

TABLE = pa.table({"id": ["a", "b"]})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with google_store.running() as endpoint:
        yield endpoint


def test_what_is_written_is_read_and_listed_by_its_own_name(server: str) -> None:
    for name in ("take #3.wav", "a b.wav", "größe/大.wav", "100%25.wav"):
        uri = f"gs://{BUCKET}/names/{name}"
        storage.write_bytes(uri, name.encode())
        where = f"{server}/storage/v1/b/{BUCKET}/o/{quote(f'names/{name}', safe='')}?alt=media"
        assert urlopen(where).read() == name.encode()
        assert storage.read_bytes(uri) == name.encode()
        assert storage.read_range(uri, 1, 3) == name.encode()[1:4]
        assert uri in storage.list_files(f"gs://{BUCKET}/names")
        found = storage.entry(uri)
        assert found is not None
        assert found.size == len(name.encode())
    assert storage.list_folder(f"gs://{BUCKET}/names")[0] == ["größe"]


def test_what_is_not_there_is_told_apart(server: str) -> None:
    storage.write_bytes(f"gs://{BUCKET}/tree/a/b", b"12")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"gs://{BUCKET}/tree/none")
    assert storage.entry(f"gs://{BUCKET}/tree/none") is None
    assert storage.is_folder(f"gs://{BUCKET}/tree/a")
    assert storage.list_files(f"gs://{BUCKET}/none") == []
    storage.remove(f"gs://{BUCKET}/tree/a/b")
    assert not storage.exists(f"gs://{BUCKET}/tree/a/b")


def test_tables_and_folders_are_written_and_moved(server: str, tmp_path: Path) -> None:
    base = f"gs://{BUCKET}/tables"
    storage.write_table(TABLE, f"{base}/language=en/part.parquet")
    assert storage.read_table(base).column("language").to_pylist() == ["en", "en"]
    storage.move(f"{base}/language=en/part.parquet", f"{base}/moved.parquet")
    assert storage.list_files(base) == [f"{base}/moved.parquet"]
    with storage.published_folder(f"gs://{BUCKET}/model") as folder:
        storage.write_text(f"{folder}/a/b", "x")
    with storage.local_folder(f"gs://{BUCKET}/model") as copy:
        assert Path(copy, "a/b").read_text() == "x"
    storage.remove(f"gs://{BUCKET}/model")
    assert not storage.is_folder(f"gs://{BUCKET}/model")


@pytest.mark.parametrize("ask", [storage.read_bytes, storage.entry, storage.list_files, storage.exists])
def test_a_server_that_is_not_there_is_an_error_of_the_storage(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setattr(filesystems, "_GCS_RETRY", timedelta(milliseconds=50))
    with pytest.raises(OSError, match="Could not connect") as caught:
        ask("gs://corpora/clips/a.wav")
    assert storage.is_fault(caught.value)
    assert "gs://corpora/clips/a.wav" in str(storage.fault(caught.value))

"""Storage against a server of the S3 protocol."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cslm import storage
from tests.data import object_store
from tests.data.object_store import BUCKET, Server

TABLE = pa.table({"id": ["a", "b"]})


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with object_store.running() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    shared.requests.clear()
    return shared


def test_names_are_taken_verbatim(server: Server) -> None:
    for name in ("take #3.wav", "a b?c=d.wav", "größe 大.wav", "100%25.wav"):
        uri = f"s3://{BUCKET}/names/{name}"
        storage.write_bytes(uri, name.encode())
        assert storage.read_bytes(uri) == name.encode()
        assert f"names/{name}" in server.keys("names/")
        assert uri in storage.list_files(f"s3://{BUCKET}/names")


def test_the_endpoint_of_s3_alone_goes_before_the_one_for_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage.write_text(f"s3://{BUCKET}/endpoint", "x")
    assert server.keys("endpoint") == ["endpoint"]


def test_a_small_object_is_written_by_one_request(server: Server) -> None:
    storage.write_bytes(f"s3://{BUCKET}/small/object", b"1")
    assert [request[0] for request in server.requests] == ["PUT"]


def test_parts_of_objects_are_read_alone(server: Server) -> None:
    uri = f"s3://{BUCKET}/range"
    storage.write_bytes(uri, bytes(range(100)))
    server.requests.clear()
    assert storage.read_range(uri, 10, 5) == bytes(range(10, 15))
    assert [request[2] for request in server.requests if request[0] == "GET"] == ["bytes=10-14"]
    assert storage.read_range(uri, 98, 5) == bytes([98, 99])
    assert storage.read_range(uri, 200, 5) == b""


def test_what_is_not_there_is_told_apart_from_a_folder_and_from_a_file(server: Server) -> None:
    base = f"s3://{BUCKET}/tree"
    storage.write_bytes(f"{base}/a/b", b"12")
    for absent in ("none", "none/x"):
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(f"{base}/{absent}")
        assert storage.entry(f"{base}/{absent}") is None
    assert storage.is_folder(f"{base}/a")
    assert storage.entry(f"{base}/a") is None
    found = storage.entry(f"{base}/a/b")
    assert found is not None
    assert found.size == 2
    assert storage.list_folder(base) == (["a"], [])
    assert storage.list_folder(f"{base}/a") == ([], [found])
    storage.remove(f"{base}/a")
    assert storage.list_files(base) == []


def test_a_listing_is_one_request_however_many_files_there_are(server: Server) -> None:
    base = f"s3://{BUCKET}/many"
    for n in range(40):
        server.client.put_object(Bucket=BUCKET, Key=f"many/{n % 7}/{n}", Body=b"x")
    digest = storage.listing_digest(base)
    server.requests.clear()
    assert storage.listing_digest(base) == digest
    assert len(server.requests) <= 3
    server.client.put_object(Bucket=BUCKET, Key="many/1/1", Body=b"xy")
    assert storage.listing_digest(base) != digest


def test_a_table_that_cannot_be_finished_is_not_there(server: Server) -> None:
    uri = f"s3://{BUCKET}/tables/table.parquet"
    storage.write_table(TABLE, uri)
    assert storage.read_table(uri).equals(TABLE)
    with pytest.raises(ValueError, match="schema"):
        storage.write_row_groups([TABLE.slice(1), TABLE.rename_columns(["other"])], uri)
    assert storage.read_table(uri).equals(TABLE)
    assert storage.read_table(f"s3://{BUCKET}/tables").num_rows == 2


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    uri = f"s3://{BUCKET}/busy"
    storage.write_bytes(uri, b"123")
    for read in (storage.read_bytes, storage.entry, lambda uri: storage.read_range(uri, 0, 3), storage.list_entries):
        server.failures = 1
        assert read(uri) is not None
        assert server.failures == 0


def test_a_server_that_stays_busy_or_refuses_is_an_error_of_the_storage(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage.write_bytes(f"s3://{BUCKET}/busy", b"123")
    server.failures = 99
    with pytest.raises(OSError, match="busy") as caught:
        storage.read_bytes(f"s3://{BUCKET}/busy")
    assert not isinstance(caught.value, FileNotFoundError)
    assert 99 - server.failures == 2
    server.failures = 0


def test_a_folder_is_published_and_copied(server: Server, tmp_path: Path) -> None:
    uri = f"s3://{BUCKET}/model"
    with storage.published_folder(uri) as folder:
        storage.write_text(f"{folder}/a/b", "x")
    with storage.local_folder(uri) as copy:
        assert Path(copy, "a/b").read_text() == "x"


def test_the_variables_of_the_region_are_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert storage.filesystem(f"s3://{BUCKET}/x")[0].region == "eu-west-1"
    monkeypatch.delenv("AWS_REGION")
    assert os.environ.get("AWS_DEFAULT_REGION") or storage.filesystem(f"s3://{BUCKET}/x")[0].region == "us-east-1"


def test_buckets_of_google_are_reached_by_their_own_client() -> None:
    system, path = storage.filesystem("gs://bucket/a #1/b")
    assert (system.type_name, path) == ("gcs", "bucket/a #1/b")

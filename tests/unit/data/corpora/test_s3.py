"""Corpora that lie in an object store, read from a server of the S3 protocol, with the output there too."""

import pytest

from cslm import storage
from cslm.data import fetch, locators, manifest, recordings
from cslm.data.corpora import CorpusSection
from cslm.data.filters import FiltersSection
from cslm.data.intake import Intake
from tests.data import layouts, object_store
from tests.data.object_store import BUCKET
from tests.unit.data.corpora.test_layouts import check

# The miniatures are of a tenth of a second and said faster than anybody can.
LIMITS = Intake(filters=FiltersSection(max_speaking_rate=None))


@pytest.fixture(scope="module")
def shared():
    with object_store.running() as server:
        yield server


@pytest.fixture
def server(shared):
    shared.requests.clear()
    return shared


LAYOUTS = {
    "fr": layouts.common_voice,
    "librispeech": layouts.librispeech,
    "mls_german": layouts.mls,
    "webdataset": layouts.webdataset,
    "parquet": layouts.huggingface_parquet,
    "saved": layouts.huggingface_saved,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_corpus_in_a_bucket_is_prepared_and_decoded_with_its_output_in_a_bucket(name, server, tmp_path):
    expected = LAYOUTS[name](tmp_path / name)
    uri = server.upload(tmp_path / name, f"in/{name}")
    output = f"s3://{BUCKET}/out/{name}"
    made = manifest.prepare(CorpusSection(manifest=uri, rows_per_shard=4), output)
    assert made.rejected == {}
    tables = [manifest.read_shard(output, shard["name"]) for shard in made.shards]
    rows = {row["id"]: row for table in tables for row in table.to_pylist()}
    for wanted in expected.values():
        if "audio" in wanted:
            wanted["audio"] = uri + wanted["audio"].removeprefix(f"{tmp_path}/{name}")
    check(rows, expected)
    pieces = [piece for table in tables for piece, _ in recordings.decode_shard(table, 16_000, LIMITS, 100.0)]
    assert sum(piece.num_rows for piece in pieces) == len(expected)
    assert all(set(piece.column("error").to_pylist()) == {None} for piece in pieces)
    server.requests.clear()
    assert manifest.prepare(CorpusSection(manifest=uri, rows_per_shard=4), output) == made
    assert not [path for method, path, _ in server.requests if method == "PUT"]


def test_a_finished_corpus_is_known_again_without_a_request_a_file(server, tmp_path):
    for n in range(30):
        layouts.write(tmp_path / f"cv/fr/clips/more{n}.mp3", b"x")
        layouts.write(tmp_path / f"libri/train-clean-100/1/{n}/1-{n}-0000.flac", b"x")
    layouts.common_voice(tmp_path / "cv/fr")
    layouts.librispeech(tmp_path / "libri")
    for name in ("cv", "libri"):
        section = CorpusSection(manifest=server.upload(tmp_path / name, f"known/{name}"))
        key = manifest.source_key(section)
        server.requests.clear()
        assert manifest.source_key(section) == key
        assert len(server.requests) < 30
        assert not [path for _, path, _ in server.requests if path.endswith((".mp3", ".flac"))]
        if name == "cv":
            # The clips are never listed.
            listed = [path for _, path, _ in server.requests if "list-type" in path and "clips" in path]
            assert all("max-keys=1" in path for path in listed)


def test_the_index_of_a_tar_leaves_out_what_lies_between_the_headers(server, tmp_path):
    large = bytes(3 << 20)
    layouts.tar(
        tmp_path / "a.tar", {f"{n}.{end}": data for n in range(4) for end, data in (("wav", large), ("txt", b"x"))}
    )
    uri = server.upload(tmp_path, "large")
    made = manifest.prepare(CorpusSection(manifest=f"{uri}/a.tar", language="en"), f"s3://{BUCKET}/out/large")
    assert made.num_rows == 4
    asked = [
        span.removeprefix("bytes=").split("-") for method, path, span in server.requests if "a.tar" in path and span
    ]
    num_bytes = sum(int(last) - int(first) + 1 for first, last in asked)
    assert 0 < num_bytes < (tmp_path / "a.tar").stat().st_size / 4
    rows = manifest.read_shard(f"s3://{BUCKET}/out/large", "shard-00000").column("audio").to_pylist()
    server.requests.clear()
    assert [len(one.data) for one in fetch.fetch_all(rows)] == [len(large)] * 4
    # Two fit into one read.
    assert len([span for method, _, span in server.requests if method == "GET" and span]) == 2


def test_a_missing_object_is_the_fault_of_its_row(server, tmp_path):
    layouts.common_voice(tmp_path / "fr")
    uri = server.upload(tmp_path / "fr", "gaps/fr")
    server.client.delete_object(Bucket=BUCKET, Key="gaps/fr/clips/common_voice_fr_000001.mp3")
    output = f"s3://{BUCKET}/out/gaps"
    made = manifest.prepare(CorpusSection(manifest=uri), output)
    errors = {}
    for shard in made.shards:
        for piece, _ in recordings.decode_shard(manifest.read_shard(output, shard["name"]), 16_000, LIMITS, 100.0):
            errors |= dict(zip(piece.column("id").to_pylist(), piece.column("error").to_pylist(), strict=True))
    assert {name for name, error in errors.items() if error} == {"common_voice_fr_000001"}
    assert errors["common_voice_fr_000001"] == "missing"


def test_a_server_that_is_down_ends_the_work_and_rejects_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    layouts.common_voice(tmp_path / "fr")
    layouts.huggingface_parquet(tmp_path / "parquet")
    with object_store.running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        uri = server.upload(tmp_path, "down")
        output = str(tmp_path / "out")
        made = manifest.prepare(CorpusSection(manifest=f"{uri}/fr"), output)
        rows = manifest.read_shard(output, made.shards[0]["name"])
        clip = rows.column("audio").to_pylist()[0]
        addresses = [clip, locators.of_bytes(clip, 0, 9)]
        addresses.append(locators.of_row(f"{uri}/parquet/data/validation-00000-of-00001.parquet", 0, "audio.bytes"))
        assert all(fetch.fetch(address).data for address in addresses)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    for address in addresses:
        with pytest.raises(OSError, match="AWS Error NETWORK_CONNECTION") as caught:
            fetch.fetch(address)
        assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(OSError, match="common_voice_fr"):
        list(recordings.decode_shard(rows, 16_000, LIMITS, 100.0))
    for name in ("fr", "parquet"):
        with pytest.raises(OSError, match="AWS Error"):
            manifest.prepare(CorpusSection(manifest=f"{uri}/{name}"), str(tmp_path / "other"))
    assert storage.list_files(str(tmp_path / "other")) == []

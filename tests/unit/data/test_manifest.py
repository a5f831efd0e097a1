import json
import os

import pyarrow.parquet as pq
import pytest

from cslm import storage
from cslm.data import manifest
from cslm.data.corpora import CorpusSection
from cslm.errors import ConfigError
from tests.data import layouts


def row(number, **changes):
    fields = {
        "id": f"u{number}",
        "audio": f"{number}.wav",
        "language": "en",
        "split": "train",
        "text": f"text {number}",
    }
    return fields | changes


@pytest.fixture
def make(tmp_path):
    """Write rows as JSONL and prepare the canonical manifest from them."""

    def prepare(rows, **settings):
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        section = CorpusSection(manifest=str(tmp_path / "corpus.jsonl"), **{"rows_per_shard": 4, **settings})
        return manifest.prepare(section, str(tmp_path / "out"))

    return prepare


def ids(tmp_path, shard):
    return manifest.read_shard(str(tmp_path / "out"), shard["name"]).column("id").to_pylist()


def rejects(tmp_path):
    files = storage.list_files(str(tmp_path / "out" / "rejects"))
    return storage.read_table(files).to_pylist() if files else []


def test_a_shard_holds_rows_of_one_language_and_split_in_order(make, tmp_path):
    rows = [row(n, language=("en", "zh")[n % 2], split="train" if n < 10 else "test") for n in range(14)]
    made = make(rows)
    places = {(shard["language"], shard["split"]) for shard in made.shards}
    assert places == {("en", "train"), ("zh", "train"), ("en", "test"), ("zh", "test")}
    assert [shard["name"] for shard in made.shards] == [f"shard-{n:05d}" for n in range(len(made.shards))]
    for language in ("en", "zh"):
        found = [one for shard in made.shards if shard["language"] == language for one in ids(tmp_path, shard)]
        expected = [one["id"] for one in rows if one["language"] == language]
        assert sorted(found) == sorted(expected)
    assert ids(tmp_path, made.shards[0]) == ["u0", "u2", "u4", "u6"]
    assert made.num_rows == 14 == sum(shard["rows"] for shard in made.shards)


def test_rows_that_cannot_be_taken_are_rejected_with_their_reason(make, tmp_path):
    bad = [
        row(1, id=None),
        row(2, audio=""),
        row(3, language=None),
        row(4, language="eng lish"),
        row(5, split="holdout"),
        row(6, start_s="soon"),
        row(0),
    ]
    made = make([row(0), *bad, row(9)])
    found = {(one["id"], one["error"]) for one in rejects(tmp_path)}
    assert found == {
        ("#2", "no_id"),
        ("u2", "no_audio"),
        ("u3", "no_language"),
        ("u4", "bad_language"),
        ("u5", "bad_split"),
        ("u6", "bad_number"),
        ("u0", "duplicate_id"),
    }
    assert {one["stage"] for one in rejects(tmp_path)} == {"manifest"}
    assert all("must" in one["message"] and "found" in one["message"] for one in rejects(tmp_path))
    assert sum(made.rejected.values()) + sum(shard["rows"] for shard in made.shards) == made.num_rows == 9


def test_rows_none_of_which_can_be_taken_do_not_end_the_reading(make, monkeypatch):
    monkeypatch.setattr(manifest, "_CHUNK_ROWS", 2)
    made = make([row(0, language="?"), row(1, language="?"), row(2), row(2)])
    assert made.rejected == {"bad_language": 2, "duplicate_id": 1}


def test_ids_that_come_again_much_later_are_found(make, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_CHUNK_ROWS", 7)
    rows = [row(n) for n in range(100)] + [row(n) for n in (0, 50, 99, 99)]
    made = make(rows)
    assert made.rejected == {"duplicate_id": 4}
    assert sorted(one["id"] for one in rejects(tmp_path)) == ["u0", "u50", "u99", "u99"]


def test_an_id_that_splitting_may_give_to_another_rows_utterance_is_refused(make, tmp_path):
    made = make([row(1, text=None), row(2) | {"id": "u1#0"}, row(3) | {"id": "u3#0"}, row(3)])
    assert made.rejected == {"duplicate_id": 1}
    [refused] = rejects(tmp_path)
    assert refused["id"] == "u1#0"
    assert "kept for an utterance of u1" in refused["message"]


def test_values_get_the_types_of_the_contract(make, tmp_path):
    made = make([row(1, id=17, speaker=3, start_s="0.5", end_s=2, text="", split=None, language=None)], language="fr")
    table = manifest.read_shard(str(tmp_path / "out"), made.shards[0]["name"]).to_pylist()
    assert table == [
        {
            "id": "17",
            "audio": f"{tmp_path}/1.wav",
            "text": None,
            "language": "fr",
            "speaker": "3",
            "start_s": 0.5,
            "end_s": 2.0,
            "split": "train",
        }
    ]


def test_it_is_made_again_only_when_the_source_changed(make, tmp_path):
    rows = [row(n) for n in range(6)]
    first = make(rows)
    shard_file = tmp_path / "out" / "manifest" / "shard-00000.parquet"
    before = shard_file.stat().st_ino
    settings = CorpusSection(manifest=str(tmp_path / "corpus.jsonl"), rows_per_shard=4)
    assert manifest.prepare(settings, str(tmp_path / "out")) == first
    assert shard_file.stat().st_ino == before
    grown = make([*rows, row(6), row(7, language=None)])
    assert grown.key != first.key
    # What was full before is the same shard still: its work need not be done again.
    assert grown.shards[0] == first.shards[0]
    assert grown.shards[1] != first.shards[1]
    shrunk = make(rows[:3])
    assert len(shrunk.shards) == 1
    assert [storage.name(path) for path in storage.list_files(str(tmp_path / "out" / "manifest"))] == [
        "manifest.json",
        "shard-00000.parquet",
    ]
    assert rejects(tmp_path) == []


def test_the_key_follows_the_files_and_the_way_of_reading_them(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps(row(1)) + "\n")
    section = CorpusSection(manifest=str(path))
    key = manifest.source_key(section)
    assert manifest.source_key(section) == key
    assert manifest.source_key(CorpusSection(manifest=str(path), rows_per_shard=7)) != key
    os.utime(path, (1, 1))
    assert manifest.source_key(section) != key
    with pytest.raises(ConfigError, match="found nothing at"):
        manifest.source_key(CorpusSection(manifest=str(tmp_path / "absent.jsonl")))


def test_a_making_that_was_cut_short_begins_again(make, tmp_path, monkeypatch):
    rows = [row(n) for n in range(10)]
    write = manifest._Builder._write_shard
    calls = []

    def failing(self, place):
        calls.append(place)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write(self, place)

    monkeypatch.setattr(manifest._Builder, "_write_shard", failing)
    with pytest.raises(OSError, match="no space"):
        make(rows)
    monkeypatch.undo()
    made = make(rows)
    assert sum(shard["rows"] for shard in made.shards) == 10


def test_progress_is_told_and_a_key_that_is_known_spares_the_listing(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_CHUNK_ROWS", 4)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(10)))
    section = CorpusSection(manifest=str(tmp_path / "corpus.jsonl"))
    key = manifest.source_key(section)
    told = []
    made = manifest.prepare(section, str(tmp_path / "out"), key=key, on_rows=told.append)
    assert told == [4, 8, 10]
    assert made.key == key
    monkeypatch.setattr(manifest, "source_key", lambda section: pytest.fail("the key is known"))
    assert manifest.prepare(section, str(tmp_path / "out"), key=key, on_rows=told.append) == made
    assert told == [4, 8, 10]


def test_a_shard_ends_between_row_groups_and_not_within_one(tmp_path, monkeypatch):
    table, _ = layouts.audio_table(0, 30)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    section = CorpusSection(manifest=str(tmp_path / "a.parquet"), rows_per_shard=4)
    made = manifest.prepare(section, str(tmp_path / "out"))
    assert [shard["rows"] for shard in made.shards] == [10, 10, 10]
    # Unless one is very large.
    monkeypatch.setattr(manifest, "_MAX_SHARDS_IN_ONE", 2)
    made = manifest.prepare(section, str(tmp_path / "other"))
    assert [shard["rows"] for shard in made.shards] == [8, 8, 4, 8, 2]
    # Small ones stand together.
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    made = manifest.prepare(section, str(tmp_path / "small"))
    assert [shard["rows"] for shard in made.shards] == [4] * 7 + [2]


def test_tags_and_splits_are_written_in_one_way(make, tmp_path):
    made = make([row(0, language="zh-cn", split="validation"), row(1, language="ZH-CN", split="dev-clean")])
    assert [(shard["language"], shard["split"], shard["rows"]) for shard in made.shards] == [("zh-CN", "dev", 2)]

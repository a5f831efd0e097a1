import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cslm import contracts, storage
from cslm.data import prompts
from cslm.errors import ConfigError, ContractError

GOOD = [
    {"id": "a", "task": "asr", "language": "en", "audio": "clips/a.wav", "start_s": 0.5},
    {"task": "s2s", "language": "zh-cn", "answer_language": "en", "units": [1, 2, 3]},
    {"id": 7, "task": "tts", "language": "es", "text": "Es rojo."},
    {"id": "far", "task": "st", "language": "en", "answer_language": "es", "audio": "s3://bucket/clip.flac"},
]
BAD = [
    ({"id": "a", "task": "text", "language": "en", "text": "x"}, "duplicate_id", "found a again in row 4"),
    ({"task": "sing", "language": "en", "text": "x"}, "bad_prompt", "task: must be one of"),
    ({"task": "asr", "language": "en", "text": "x"}, "bad_prompt", "units: the task asr needs units"),
    ({"task": "mt", "language": "en", "text": "x"}, "bad_prompt", "answer_language: the task mt needs it"),
    ({"task": "asr", "language": "en", "units": [1, -1]}, "bad_value", "whole numbers of 0 to 65535"),
    ({"task": "asr", "language": "en", "units": [1], "audio": "x.wav"}, "bad_value", "audio or units, found both"),
    ({"task": "text", "language": "not a tag", "text": "x"}, "bad_language", "language must be a BCP-47 tag"),
    ({"task": "text", "text": "x"}, "no_language", "column language must hold a value"),
    ({"task": "text", "language": "en", "text": {"a": 1}}, "bad_value", "column text must hold text"),
    ({"task": "asr", "language": "en", "audio": "x", "start_s": "soon"}, "bad_value", "start_s must be a number"),
    (["no", "object"], "unreadable_row", "must be a JSON object"),
]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "given" / "prompts.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(json.dumps(row) for row in [*GOOD, *(row for row, _, _ in BAD)]) + "\n")
    return path


def test_every_row_becomes_a_prompt_or_a_reject_with_its_reason(lines, tmp_path):
    found = prompts.prepare(str(lines), str(tmp_path / "out"), 3)
    assert (found["rows"], found["rejected"], found["spoken"]) == (len(GOOD) + len(BAD), len(BAD), 2)
    assert [shard["rows"] for shard in found["shards"]] == [3, 1]
    rows = [row for shard in found["shards"] for row in prompts.read_shard(str(tmp_path / "out"), shard["name"])]
    assert [row["id"] for row in rows] == ["a", "row-1", "7", "far"]
    assert [row["audio"] for row in rows] == [
        str(lines.parent / "clips" / "a.wav"), None, None, "s3://bucket/clip.flac",
    ]  # fmt: skip
    assert rows[1]["language"] == "zh-CN"
    assert prompts.prompt_of(rows[1]).units == [1, 2, 3]
    rejects = contracts.load("rejects").check(storage.read_table(str(tmp_path / "out" / "rejects"))).to_pylist()
    for row, (_, error, message) in zip(rejects, BAD, strict=True):
        assert row["error"] == error
        assert message in row["message"]


def test_parquet_tables_are_taken_and_columns_may_be_missing(tmp_path):
    table = pa.table({"task": ["asr", "asr"], "language": ["en", "en"], "units": [[1, 2], [3]]})
    pq.write_table(table, tmp_path / "prompts.parquet")
    found = prompts.prepare(str(tmp_path / "prompts.parquet"), str(tmp_path / "out"), 10)
    assert (found["rows"], found["rejected"]) == (2, 0)


def test_the_same_table_keeps_its_shards_and_a_changed_one_gets_others(lines, tmp_path):
    out = str(tmp_path / "out")
    found = prompts.prepare(str(lines), out, 3)
    assert prompts.prepare(str(lines), out, 3) == found
    lines.write_text(json.dumps(GOOD[2]) + "\n")
    changed = prompts.prepare(str(lines), out, 3)
    assert changed["shards"][0]["digest"] != found["shards"][0]["digest"]
    assert [storage.name(file) for file in storage.list_files(f"{out}/prompts", ".parquet")] == ["shard-00000.parquet"]
    assert storage.list_files(f"{out}/rejects", ".parquet") == []


def test_no_table_and_nothing_to_ask_are_told(tmp_path):
    with pytest.raises(ConfigError, match="found nothing at"):
        prompts.prepare(str(tmp_path / "none.jsonl"), str(tmp_path / "out"), 3)
    (tmp_path / "bad.jsonl").write_text("{}\n")
    found = prompts.prepare(str(tmp_path / "bad.jsonl"), str(tmp_path / "out"), 3)
    with pytest.raises(ContractError, match="found 1 rows in"):
        prompts.require_readable(found, str(tmp_path / "bad.jsonl"))

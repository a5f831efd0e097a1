import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.data.ledger import Ledger, add_counts, write_piece


def shard(number, digest="d"):
    return {"name": f"shard-{number:05d}", "language": "en", "split": "train", "rows": 1, "digest": f"{digest}{number}"}


def tables(name):
    unit = {
        "id": name,
        "speaker": None,
        "text": "t",
        "units": [1, 2],
        "durations": [1, 1],
        "num_frames": 2,
        "frame_rate_hz": 50.0,
        "duration_s": 0.04,
        "tokenizer": "f",
        "source": f"/{name}.wav",
        "source_sha256": "0",
        "language": "en",
        "split": "train",
    }
    reject = {"id": f"{name}-bad", "source": "/x.wav", "stage": "audio", "error": "missing", "message": "m"}
    return contracts.load("units").table([unit]), contracts.load("rejects").table([reject])


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def files(output):
    found = storage.list_files(output)
    return sorted(path.removeprefix(output).strip("/") for path in found if "/ledger/" not in path)


def test_a_recorded_shard_is_done_and_another_is_not(output):
    ledger = Ledger(output, "work")
    entry = ledger.record(shard(0), {"rows": 1, "unit_counts": [0, 1]})
    assert ledger.done([shard(0), shard(1)]) == {"shard-00000": entry}
    assert (entry["language"], entry["rows"]) == ("en", 1)


def test_other_rows_or_other_work_make_an_entry_void(output):
    Ledger(output, "work").record(shard(0), {"rows": 1})
    assert Ledger(output, "work").done([shard(0, digest="other")]) == {}
    assert Ledger(output, "other").done([shard(0)]) == {}


def test_tables_of_a_piece_lie_where_the_shard_says(output):
    for piece in (0, 1):
        write_piece(output, shard(3), piece, *tables(f"a{piece}"))
    assert files(output) == [
        "rejects/shard-00003-001.parquet",
        "rejects/shard-00003.parquet",
        "units/language=en/split=train/shard-00003-001.parquet",
        "units/language=en/split=train/shard-00003.parquet",
    ]
    units = storage.read_table(f"{output}/units")
    assert contracts.load("units").check(units).column("id").to_pylist() == ["a1", "a0"]
    assert set(units.column("language").to_pylist()) == {"en"}


def test_tables_without_rows_are_not_written(output):
    units, rejects = tables("a")
    write_piece(output, shard(0), 0, units.slice(0, 0), rejects.slice(0, 0))
    assert files(output) == []


def test_beginning_leaves_only_what_belongs_to_finished_shards(output):
    ledger = Ledger(output, "work")
    for number in range(3):
        write_piece(output, shard(number), 0, *tables(f"a{number}"))
        ledger.record(shard(number), {"rows": 1})
    # Ended between a shard's tables and its entry, within a shard, and left by a manifest with more shards.
    write_piece(output, shard(3), 0, *tables("a3"))
    write_piece(output, shard(4), 1, *tables("a4"))
    storage.write_table(tables("m")[1], f"{output}/rejects/manifest-00000.parquet")
    done = ledger.done([shard(0), shard(1), shard(2, digest="changed")])
    ledger.begin(done)
    assert files(output) == [
        "rejects/manifest-00000.parquet",
        "rejects/shard-00000.parquet",
        "rejects/shard-00001.parquet",
        "units/language=en/split=train/shard-00000.parquet",
        "units/language=en/split=train/shard-00001.parquet",
    ]
    assert [storage.name(path) for path in storage.list_files(f"{output}/ledger")] == [
        "shard-00000.json",
        "shard-00001.json",
    ]


counts = st.fixed_dictionaries(
    {
        "rows": st.integers(0, 9),
        "reasons": st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
        "bins": st.lists(st.integers(0, 9), min_size=3, max_size=3),
    }
)


@given(counts, counts, counts)
def test_counts_add_up_in_any_order(one, two, three):
    left = add_counts(add_counts(one, two), three)
    right = add_counts(three, add_counts(two, one))
    assert left == right
    assert left["rows"] == one["rows"] + two["rows"] + three["rows"]
    assert left["bins"] == [sum(values) for values in zip(one["bins"], two["bins"], three["bins"], strict=True)]
    assert add_counts({}, one) == one
    assert json.loads(json.dumps(left)) == left

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.data import alignments
from cslm.data.ledger import Ledger
from cslm.errors import ContractError
from cslm.speech.aligned import Aligned, Fault
from cslm.speech.word_times import WordTime
from tests.data import aligning

ALIGNED = Aligned([(0, 2), (3, 4)], [WordTime(0.1, 0.3, -0.5), WordTime(0.3, 0.3, None)], -0.5)


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    root = tmp_path_factory.mktemp("units")
    aligning.write_units(root, 40, 5)
    return str(root / "units")


def test_shards_are_the_files_of_the_table(units):
    found = alignments.shards(units, None, None)
    assert [shard["file"] for shard in found] == [
        path.removeprefix(units).strip("/") for path in storage.list_files(units, ".parquet")
    ]
    assert sum(shard["rows"] for shard in found) == 40
    assert all(shard["audio_s"] > 0 for shard in found)
    some = alignments.shards(units, ["zh"], ["train"])
    assert some == [shard for shard in found if (shard["language"], shard["split"]) == ("zh", "train")]
    assert [shard["name"] for shard in some][:1] == ["zh.train." + storage.name(some[0]["file"])[:-8]]


def test_files_outside_of_partitions_are_refused(tmp_path):
    storage.write_table(pa.table({"id": ["a"]}), str(tmp_path / "shard-00000.parquet"))
    with pytest.raises(ContractError, match="must lie in folders language"):
        alignments.shards(str(tmp_path), None, None)


def test_faults_of_the_audio_are_told_in_the_row_and_the_rest_is_decoded(units):
    rejected = {}
    for shard in alignments.shards(units, None, None):
        rows = alignments.asked(units, shard, None)
        piece = alignments.decode(rows, shard, 16_000)
        assert piece.num_rows == rows.num_rows
        for row in piece.to_pylist():
            assert (row["error"] is None) == (len(row["samples"]) > 0)
            if row["error"]:
                rejected[row["id"]] = (row["stage"], row["error"])
    assert rejected == {
        "u003": ("text", "no_transcript"), "u030": ("audio", "source_changed"), "u039": ("audio", "missing"),
    }  # fmt: skip


def test_only_what_is_asked_for_is_decoded_and_the_rest_is_counted(units):
    shard = alignments.shards(units, ["en"], ["train"])[0]
    piece = alignments.decode(alignments.asked(units, shard, pa.array(["u002", "u999"])), shard, 16_000)
    assert piece.column("id").to_pylist() == ["u002"]
    made, rejects = alignments.tables(piece.drop_columns(["samples"]).to_pylist(), [ALIGNED], "f")
    counts = alignments.counts(piece, made, rejects, 16_000)
    assert [counts[name] for name in ("rows", "skipped", "accepted", "rejected")] == [5, 4, 1, 0]
    assert (counts["words"], counts["silent_words"], counts["audio_s"]) == (2, 1, pytest.approx(1.2))
    nothing = alignments.decode(alignments.asked(units, shard, pa.array(["u999"])), shard, 16_000)
    empty = alignments.tables([], [], "f")
    assert alignments.counts(nothing, *empty, 16_000)["rows"] == 5


def test_tables_of_a_shard_lie_where_its_units_do_and_belong_to_it(units, tmp_path):
    shard = alignments.shards(units, ["en"], ["test"])[0]
    rows = alignments.decode(alignments.asked(units, shard, None), shard, 16_000).drop_columns(["samples"]).to_pylist()
    results = [ALIGNED, Fault("poor_score", "m"), *[ALIGNED] * (len(rows) - 2)]
    output = str(tmp_path)
    alignments.write(output, shard, *alignments.tables(rows, results, "f"))
    ledger = Ledger(output, "work", tables=("alignments", "rejects"), shard_of=alignments.shard_of)
    assert {alignments.shard_of(shard["file"]), alignments.shard_of(f"{shard['name']}.parquet")} == {shard["name"]}
    ledger.record(shard, {"rows": len(rows)})
    ledger.begin(ledger.done([shard]))
    found = contracts.load("alignments").check(storage.read_table(f"{output}/alignments"))
    assert found.num_rows == len(rows) - 1
    assert (
        contracts.load("rejects").check(storage.read_table(f"{output}/rejects")).column("stage")[0].as_py() == "align"
    )
    # Without its entry in the ledger all of it is gone.
    ledger.begin({})
    assert storage.list_files(output) == []


def test_answers_are_what_the_assistant_speaks(tmp_path):
    def turn(role, audio):
        return {"role": role, "language": "en", "text": "t", "audio": audio}

    rows = [
        {"id": "1", "turns": [turn("user", "a"), turn("assistant", "c"), turn("user", "d"), turn("assistant", "b")]},
        {"id": "2", "turns": [turn("user", None), turn("assistant", None)]},
        {"id": "3", "turns": [turn("user", "a"), turn("assistant", "b")]},
    ]
    storage.write_table(contracts.load("dialogues").table(rows), str(tmp_path / "d.parquet"))
    assert alignments.answers(str(tmp_path)) == ["b", "c"]


@given(st.lists(st.floats(0, 4), max_size=8), st.sampled_from([12.5, 25.0, 50.0]), st.integers(1, 60))
def test_words_in_frames_are_in_order_and_within_the_utterance(times, rate_hz, num_frames):
    spans = sorted(times)
    placed = [WordTime(one, other, -1.0) for one, other in zip(spans[::2], spans[1::2], strict=False)]
    found = alignments.words_in_frames("abcd", Aligned([(0, 1)] * len(placed), placed, 0.0), rate_hz, num_frames)
    frames = [frame for word in found for frame in (word["start_frame"], word["end_frame"])]
    assert frames == sorted(frames)
    assert all(0 <= frame <= num_frames for frame in frames)

import pytest

from cslm import contracts
from cslm.data.texts import collect
from cslm.data.texts.collect import Collector
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Dialogue, Fault, Pair, Turn
from cslm.data.texts.settings import FiltersSection, LanguagesSection, SplitsSection

FILE = TextFile("/nowhere/corpus.tsv")


def run(records, table="parallel_text", both_directions=False, **filters):
    languages = LanguagesSection(source="en", target="es", both_directions=both_directions)
    collector = Collector(table, "c", languages, SplitsSection(), FiltersSection(**filters))
    rows, rejects = [], []
    for taken, rejected in collector.chunks((FILE, record) for record in records):
        rows += taken
        rejects += rejected
    contracts.load(table).table(rows)
    contracts.load("rejects").table(rejects)
    return rows, rejects, collector


def pair(number, **changes):
    return Pair(**{"source": f"text {number}", "target": f"texto {number}", **changes})


@pytest.fixture(params=[2, 4096], ids=["small chunks", "one chunk"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(collect, "_CHUNK_ROWS", request.param)


@pytest.mark.usefixtures("_chunks")
def test_every_record_is_a_row_or_a_reject():
    records = [pair(1), pair(2, id="a"), Fault("unreadable_row", "why"), pair(3, id="a"), pair(1), pair(4, source="")]
    rows, rejects, collector = run([*records, pair(5)])
    assert [row["id"] for row in rows] == ["c-1", "a", "c-7"]
    assert sorted((reject["id"], reject["error"]) for reject in rejects) == [
        ("#3", "unreadable_row"),
        ("#6", "empty"),
        ("a", "duplicate_id"),
        ("c-5", "duplicate_pair"),
    ]
    assert {reject["stage"] for reject in rejects} == {"text"}
    assert {reject["source"] for reject in rejects} == {FILE.uri}
    counts = collector.counts()
    assert counts["rows"] == {
        "read": 7,
        "accepted": 3,
        "rejected": 4,
        "reasons": {"duplicate_id": 1, "duplicate_pair": 1, "empty": 1, "unreadable_row": 1},
    }
    assert counts["by_language"] == {"en-es": {"train": {"rows": 3, "characters": 3 * len("text 1texto 1")}}}
    assert set(collector.examples) == set(counts["rows"]["reasons"])


def test_ids_made_here_and_ids_given_are_told_apart():
    rows, rejects, _ = run([pair(1, id="c-2"), pair(2)])
    assert [row["id"] for row in rows] == ["c-2"]
    assert rejects[0]["error"] == "duplicate_id"


def test_both_directions_are_written_with_ids_of_their_own():
    records = [pair(1), Pair("texto 1", "text 1", None, "es", "en"), pair(2)]
    rows, rejects, collector = run(records, both_directions=True)
    assert [row["id"] for row in rows] == ["c-1", "c-1#reversed", "c-3", "c-3#reversed"]
    assert [reject["error"] for reject in rejects] == ["duplicate_pair"]
    counts = collector.counts()
    assert (counts["rows"]["accepted"], counts["written"]) == (2, 4)
    assert set(counts["by_language"]) == {"en-es", "es-en"}


def test_duplicates_can_be_kept():
    rows, _, _ = run([pair(1), pair(1)], drop_duplicates=False)
    assert len(rows) == 2


def test_what_was_mended_is_counted_in_rows_that_are_taken():
    turns = [Turn("system", ["Be  kind."]), Turn("user", ["A?"]), Turn("assistant", ["B."]), Turn("user", ["C?"])]
    broken = [Turn("user", ["A  a"]), Turn("user", ["B"]), Turn("assistant", ["B."])]
    _, rejects, collector = run([Dialogue(turns), Dialogue(turns), Dialogue(broken)], "dialogues")
    assert [reject["error"] for reject in rejects] == ["not_alternating", "duplicate_dialogue"]
    counts = collector.counts()
    assert (counts["changes"], counts["dropped_turns"], counts["joined_systems"]) == ({"spaces": 1}, 1, 1)


def test_rejects_can_be_written_whatever_their_text_holds():
    _, rejects, _ = run([pair(1, id="\ud800", split="\ud800"), pair(2, source_language="\ud83d")])
    assert all(value.encode() for reject in rejects for value in reject.values())


def test_samples_are_five_from_the_whole_stream_and_the_same_each_time():
    records = [pair(number) for number in range(500)]
    first, second = run(records)[2].samples, run(records)[2].samples
    assert first == second
    assert len({row["id"] for row in first}) == 5
    assert max(int(row["id"].removeprefix("c-")) for row in first) > 100

from hypothesis import given
from hypothesis import strategies as st

from cslm.data.ids import Ids, may_be_split, part_id


def row(name, text=None, start_s=None, end_s=None):
    return {"id": name, "text": text, "start_s": start_s, "end_s": end_s}


def test_the_later_of_a_recording_and_a_row_named_like_its_utterance_is_refused():
    found = Ids().faults([row("a"), row("a#0", "text"), row("b#12", "text"), row("b"), row("c")])
    assert [fault is None for fault in found] == [True, False, True, False, True]
    assert "an utterance of a should that be split" in found[1]
    assert "b#0" in found[3]


def test_recordings_that_are_not_split_leave_such_names_free():
    rows = [row("a", "text"), row("a#0", "text"), row("b", start_s=1.0), row("b#0"), row("c#0"), row("c", end_s=2.0)]
    assert Ids().faults(rows) == [None] * 6
    # Names that splitting never gives.
    assert Ids().faults([row("a"), row("a#00", "t"), row("a#x", "t"), row("a#", "t"), row("#0", "t")]) == [None] * 5


def test_a_transcript_of_nothing_that_is_spoken_or_seen_is_none():
    assert may_be_split(row("a", "\u200b \ufeff"))
    assert not may_be_split(row("a", "\u200bx"))


@given(
    st.lists(st.tuples(st.text("ab#01", min_size=1, max_size=5), st.booleans()), max_size=40),
    st.integers(min_value=1, max_value=7),
)
def test_ids_of_rows_and_of_all_they_may_be_split_into_are_unique(named, chunk):
    ids = Ids()
    rows = [row(name, "text" if spoken else None) for name, spoken in named]
    faults = [fault for first in range(0, len(rows), chunk) for fault in ids.faults(rows[first : first + chunk])]
    taken = [one for one, fault in zip(rows, faults, strict=True) if fault is None]
    given_ids = [one["id"] for one in taken]
    given_ids += [part_id(one["id"], number) for one in taken if may_be_split(one) for number in range(12)]
    assert len(set(given_ids)) == len(given_ids)

from hypothesis import given
from hypothesis import strategies as st

from cslm.data.seen import Seen


@given(st.lists(st.lists(st.text("ab", max_size=4))))
def test_what_came_before_is_told_in_the_same_call_and_in_later_ones(calls):
    seen, before = Seen(), set()
    for texts in calls:
        expected = []
        for text in texts:
            expected.append(text in before)
            before.add(text)
        assert seen.add(texts) == expected


def test_memory_is_16_bytes_a_text():
    seen = Seen()
    for start in range(0, 50_000, 1000):
        seen.add(
            [f"a text that is much longer than 16 bytes, number {number}" for number in range(start, start + 1000)]
        )
    assert sum(run.nbytes for run in seen._runs) == 16 * 50_000
    assert len(seen._runs) < 10

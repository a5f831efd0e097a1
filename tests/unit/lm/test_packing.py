from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.lm.packing import best_fit, efficiency


@given(st.lists(st.integers(1, 50), max_size=200))
def test_every_item_lies_in_one_row_and_no_row_overflows(lengths):
    rows = best_fit(lengths, 50)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 50 for row in rows)


@given(st.lists(st.integers(1, 50), max_size=200))
def test_no_two_rows_could_have_been_one(lengths):
    fill = sorted(sum(lengths[item] for item in row) for row in best_fit(lengths, 50))
    assert all(first + second > 50 for first, second in pairwise(fill))


def test_the_fullest_row_that_fits_is_taken():
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_the_same_lengths_give_the_same_rows():
    lengths = [7, 3, 3, 9, 1, 1, 5] * 20
    assert best_fit(lengths, 16) == best_fit(list(lengths), 16)


def test_lengths_of_speech_pack_to_98_percent():
    lengths = [40 + (index * 7919) % 260 for index in range(4000)]
    rows = best_fit(lengths, 1024)
    assert efficiency(lengths, len(rows), 1024) > 0.98


@pytest.mark.parametrize("length", [0, 11])
def test_an_item_that_cannot_fit_is_refused(length):
    with pytest.raises(ValueError, match=r"1\.\.10"):
        best_fit([3, length], 10)

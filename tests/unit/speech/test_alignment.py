import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.speech.alignment import Stretch, stretches, unit_bounds


def test_a_boundary_inside_a_run_goes_to_the_nearer_edge():
    #      frames 0 1 2 3 4 5 6 7 8 9
    # runs        a b b b b c d d d
    bounds = unit_bounds([1, 4, 1, 3], range(10))
    assert bounds.tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4]


def test_boundaries_beyond_the_utterance_are_refused():
    with pytest.raises(ValueError, match=r"within 0 .. 3, found 0 .. 4"):
        unit_bounds([1, 2], [0, 4])
    with pytest.raises(ValueError, match=r"within 0 .. 3, found -1 .. 0"):
        unit_bounds([1, 2], [-1, 0])


def word(start, end):
    return {"text": "w", "start_frame": start, "end_frame": end, "score": None}


def test_gaps_before_between_and_behind():
    found = stretches([2, 2, 2, 2, 2], [word(2, 4), word(4, 4), word(6, 8)])
    assert found == [
        Stretch(None, 0, 1), Stretch(0, 1, 2), Stretch(1, 2, 2), Stretch(None, 2, 3), Stretch(2, 3, 4),
        Stretch(None, 4, 5),
    ]  # fmt: skip


def test_an_utterance_without_words_is_one_gap():
    assert stretches([3, 1], []) == [Stretch(None, 0, 2)]
    assert stretches([], []) == []


durations = st.lists(st.integers(1, 9), max_size=20)


@given(durations, st.data())
def test_bounds_are_monotone_nearest_and_whole(lengths, data):
    total = sum(lengths)
    frames = sorted(data.draw(st.lists(st.integers(0, total), max_size=12)))
    bounds = unit_bounds(lengths, [0, *frames, total])
    assert (bounds[0], bounds[-1]) == (0, len(lengths))
    assert (np.diff(bounds) >= 0).all()
    edges = np.concatenate(([0], np.cumsum(lengths)))
    for frame, bound in zip(frames, bounds[1:-1], strict=True):
        assert abs(edges[int(bound)] - frame) == np.abs(edges - frame).min()
        # What is already between two runs stays there: a round trip loses nothing.
        assert unit_bounds(lengths, [edges[int(bound)]])[0] == bound


@given(durations, st.data())
def test_units_of_words_and_gaps_are_those_of_the_utterance(lengths, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, sum(lengths)), max_size=12)))
    spoken = [word(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
    found = stretches(lengths, spoken)
    assert [number for one in found for number in range(one.start, one.end)] == list(range(len(lengths)))
    assert [one.word for one in found if one.word is not None] == list(range(len(spoken)))
    assert all(one.end > one.start for one in found if one.word is None)

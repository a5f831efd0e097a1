import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from cslm.evaluate.units.phones import frame_labels, pnmi


def test_a_frame_has_the_label_at_its_middle():
    # Middles at 0.01, 0.03, 0.05 ... s.
    assert frame_labels([0.02, 0.05, 0.0501], ["a", "b", "c"], 5, 50.0) == ["", "a", "b", "c", "c"]
    assert frame_labels([], [], 2, 50.0) == ["", ""]


def test_a_code_for_every_phone_knows_all_and_one_code_for_all_knows_nothing():
    phones = [["a", "a", "b"], ["c", "b", "b"]]
    assert pnmi([np.array([0, 0, 1]), np.array([2, 1, 1])], phones) == pytest.approx(1)
    assert pnmi([np.array([5, 6, 7]), np.array([8, 9, 10])], phones) == pytest.approx(1)
    assert pnmi([np.array([3, 3, 3]), np.array([3, 3, 3])], phones) == pytest.approx(0)


def test_codes_that_part_half_of_the_phones():
    # Four phones have two bits, and the code tells one of them.
    assert pnmi([np.array([0, 0, 1, 1])], [["a", "b", "c", "d"]]) == pytest.approx(0.5)


def test_independent_codes_know_nothing():
    assert pnmi([np.array([0, 1, 0, 1])], [["a", "a", "b", "b"]]) == pytest.approx(0)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcd")), min_size=2, max_size=60))
def test_it_is_the_information_that_scikit_learn_finds(pairs):
    codes, phones = [code for code, _ in pairs], [phone for _, phone in pairs]
    entropy = mutual_info_score(phones, phones)
    expected = mutual_info_score(phones, codes) / entropy if len(set(phones)) > 1 else 0.0
    assert pnmi([np.array(codes)], [phones]) == pytest.approx(expected, abs=1e-9)


def test_labels_must_fit_the_frames():
    with pytest.raises(ValueError, match="utterance 1 must have a label a frame, found 1 for 2"):
        pnmi([np.array([1]), np.array([1, 2])], [["a"], ["b"]])

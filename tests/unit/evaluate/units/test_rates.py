import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cslm.evaluate.units.rates import entropy_bits, rates
from cslm.speech.tokenizer import merge_repeats

codes = arrays.arrays(np.uint16, st.integers(1, 40), elements=st.integers(0, 7))


def test_a_corpus_worked_out_by_hand():
    found = rates([np.array([0, 0, 1, 1], np.uint16), np.array([2, 3], np.uint16)], codebook_size=8, audio_s=0.5)
    assert found.frames_per_s == 12
    assert found.units_per_s == 8
    assert found.bits_per_s == pytest.approx(2 * 8)
    # Shares of 1/3, 1/3, 1/6, 1/6.
    assert found.perplexity == pytest.approx(3 ** (2 / 3) * 6 ** (1 / 3))
    assert found.usage == 0.5


@given(st.lists(codes, min_size=1, max_size=5))
def test_frames_and_runs_of_the_same_utterances_have_the_same_rates(sequences):
    runs = [merge_repeats(sequence) for sequence in sequences]
    assert rates(sequences, 8, 1.0) == rates(runs, 8, 1.0)


@given(st.lists(codes, min_size=1, max_size=5), st.permutations(range(8)))
def test_renaming_codes_changes_no_rate(sequences, names):
    renamed = [np.asarray(names, np.uint16)[sequence] for sequence in sequences]
    before, after = rates(sequences, 8, 2.0), rates(renamed, 8, 2.0)
    assert (before.units_per_s, before.usage) == (after.units_per_s, after.usage)
    assert after.perplexity == pytest.approx(before.perplexity)
    assert after.bits_per_s == pytest.approx(before.bits_per_s)


def test_merging_makes_units_fewer_and_not_frames():
    slow = rates([np.repeat(np.arange(5), 10)], 5, 1.0)
    quick = rates([np.arange(50) % 5], 5, 1.0)
    assert slow.frames_per_s == quick.frames_per_s == 50
    assert (slow.units_per_s, quick.units_per_s) == (5, 50)
    assert slow.perplexity == pytest.approx(quick.perplexity) == pytest.approx(5)


def test_entropy_of_even_and_of_certain_shares():
    assert entropy_bits(np.full((4, 4), 3)) == pytest.approx(4)
    assert entropy_bits(np.array([0, 9, 0])) == 0


@pytest.mark.parametrize(("sequences", "audio_s"), [([], 1.0), ([np.array([1])], 0.0)])
def test_rates_of_nothing_are_refused(sequences, audio_s):
    with pytest.raises(ValueError, match="need units"):
        rates(sequences, 4, audio_s)

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.speech import ctc


def log_probs(seed: int, num_frames: int, num_symbols: int):
    logits = np.random.default_rng(seed).normal(size=(num_frames, num_symbols)).astype(np.float32) * 2
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def by_all_paths(log_probs_FV):
    """Log probability of every text, summed over all of its paths."""
    num_frames, num_symbols = log_probs_FV.shape
    found = {}
    for path in itertools.product(range(num_symbols), repeat=num_frames):
        text = tuple(ctc.collapse(np.array(path)))
        log_prob = sum(float(log_probs_FV[frame, symbol]) for frame, symbol in enumerate(path))
        found[text] = np.logaddexp(found.get(text, -np.inf), log_prob)
    return found


@pytest.mark.parametrize(
    ("path", "symbols"),
    [([], []), ([0, 0], []), ([1, 1, 0, 1], [1, 1]), ([0, 2, 2, 3, 3, 0], [2, 3]), ([5], [5])],
)
def test_repeats_are_merged_before_blanks_fall_out(path, symbols):
    assert ctc.collapse(np.array(path, int)) == symbols


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), num_frames=st.integers(1, 5), num_symbols=st.integers(2, 4))
def test_a_wide_beam_finds_every_text_with_the_sum_over_its_paths(seed, num_frames, num_symbols):
    frames = log_probs(seed, num_frames, num_symbols)
    expected = by_all_paths(frames)
    found = ctc.prefix_beam(frames, beam=len(expected), candidates=num_symbols)
    assert {tuple(text) for text, _ in found} == set(expected)
    for text, log_prob in found:
        assert log_prob == pytest.approx(expected[tuple(text)], abs=1e-4)
    assert [log_prob for _, log_prob in found] == sorted((log_prob for _, log_prob in found), reverse=True)


def test_a_beam_finds_what_the_likeliest_path_misses():
    # Each frame's likeliest symbol is the blank, yet "1" is the likelier text over all paths.
    frames = np.log(np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]], np.float32))
    assert ctc.greedy(frames) == []
    assert ctc.prefix_beam(frames)[0][0] == [1]

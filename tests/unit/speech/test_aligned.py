"""Words placed from outputs whose peaks are known, over sounds that are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.speech import aligned, word_times
from cslm.speech.aligned import Aligned, Fault, LimitsSection
from cslm.speech.sound import Sound
from cslm.speech.spelling import SEPARATOR, spell
from tests.data.aligning import RATE_HZ, LetterAligner

ANY = LimitsSection(min_score=None, min_known=0.0)
LATENCY_S = 0.06


def sound(*parts, seed=0):
    """Tones (seconds, hz), silent where hz is 0, over a little noise."""
    pieces = [0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ) for seconds, hz in parts]
    clip = np.concatenate(pieces)
    return (clip + 1e-4 * np.random.default_rng(seed).standard_normal(len(clip))).astype(np.float32)


def align(clip, text, said, limits=ANY, language="en", latency_s=LATENCY_S):
    aligner = LetterAligner({len(clip): said})
    return aligned.align(aligner, [clip], [text], language, latency_s, limits)[0]


def test_words_lie_from_beginning_to_beginning_and_silence_is_of_none():
    # silence .2 | ab .4 | cd .4 | silence .3 | ef .4 | silence .1
    clip = sound((0.2, 0), (0.4, 300), (0.4, 900), (0.3, 0), (0.4, 500), (0.1, 0))
    said = [("a", 0.24), ("b", 0.4), (" ", 0.6), ("c", 0.66), ("d", 0.86), (" ", 1.2), ("e", 1.36), ("f", 1.5)]
    found = align(clip, "Ab cd, ef!", said)
    assert found.spans == [(0, 2), (3, 5), (7, 9)]
    times = [(one.start_s, one.end_s) for one in found.times]
    assert times == [pytest.approx(one, abs=0.021) for one in [(0.2, 0.6), (0.6, 1.0), (1.3, 1.7)]]
    assert all(one.score > -0.1 for one in found.times)


def test_a_word_without_symbols_has_no_length_and_no_score():
    clip = sound((0.4, 300), (0.4, 900))
    found = align(clip, "ab 12 cd", [("a", 0.06), ("b", 0.2), (" ", 0.36), ("c", 0.46), ("d", 0.6)])
    first, unknown, last = found.times
    assert (unknown.start_s, unknown.end_s, unknown.score) == (first.end_s, first.end_s, None)
    assert last.start_s == pytest.approx(0.4, abs=0.021)


def test_late_syllables_are_moved_to_where_they_begin():
    clip = sound((0.25, 300), (0.25, 1500), (0.25, 500), (0.25, 2500))
    # The third comes with the fourth, half a syllable and more after its beginning.
    found = align(clip, "山水火木", [("山", 0.06), ("水", 0.3), ("火", 0.76), ("木", 0.8)], language="zh")
    assert found.times[0].start_s == 0.0
    assert spell("山水火木", "zh", LetterAligner()).syllabic.all()
    onsets = word_times._syllables(np.array([0.0, 0.24, 0.7, 0.74]), 0.0, 1.0, Sound(clip, RATE_HZ).change)
    assert onsets == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=0.031)


@pytest.mark.parametrize(
    ("text", "limits", "error"),
    [
        ("?!", ANY, "no_symbols"),
        ("12 34", ANY, "unknown_symbols"),
        ("ab 12345", LimitsSection(min_known=0.5), "unknown_symbols"),
        ("a" * 60, ANY, "impossible"),
        ("zzz yyy", LimitsSection(min_score=-3.0), "poor_score"),
    ],
)
def test_what_cannot_be_aligned_says_why(text, limits, error):
    found = align(sound((1.0, 300)), text, [("a", 0.2)], limits)
    assert isinstance(found, Fault)
    assert found.error == error
    assert "found" in found.message


def test_a_text_of_as_many_symbols_as_frames_is_possible():
    assert isinstance(align(sound((1.0, 300)), "ab" * 25, []), Aligned)
    assert isinstance(align(sound((1.0, 300)), "aa" * 13, []), Fault)


def test_spaces_are_spelled_where_transcripts_have_them():
    spelled = spell("Ab, cd 山水 ef", "zh", LetterAligner())
    assert [("Ab, cd 山水 ef")[start:end] for start, end in spelled.spans] == ["Ab", "cd", "山水", "ef"]
    assert [spelled.symbols[number] for number in np.flatnonzero(spelled.owners == SEPARATOR)] == [1, 1, 1]
    assert (spell("山，水", "zh", LetterAligner()).owners != SEPARATOR).all()
    assert (spelled.num_letters, spelled.num_known) == (8, 8)


def test_the_latency_is_told_from_where_the_spectrum_changes():
    rng = np.random.default_rng(0)
    told = []
    for number in range(8):
        lengths = rng.uniform(0.2, 0.4, 8)
        pitches = rng.permutation(np.geomspace(200, 5000, 8))
        clip = sound(*zip(lengths, pitches, strict=True), seed=number)
        beginnings = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        spelled = spell(" ".join("abcdefgh"), "en", LetterAligner())
        peaks = np.zeros(len(spelled.symbols))
        peaks[spelled.owners != SEPARATOR] = beginnings + 0.07 + rng.uniform(-0.01, 0.01, 8)
        told.append((spelled, peaks, Sound(clip, RATE_HZ)))
    latency_s, num_words = word_times.latency(told)
    assert latency_s == pytest.approx(0.07, abs=0.012)
    assert num_words == 8 * 7
    assert word_times.latency(told[:2]) == (word_times.USUAL_LATENCY_S, 14)
    assert word_times.latency([]) == (word_times.USUAL_LATENCY_S, 0)


@settings(deadline=None)
@given(st.data())
def test_whatever_is_heard_words_are_in_order_and_within_the_clip(data):
    parts = data.draw(
        st.lists(st.tuples(st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([0, 300, 2000])), min_size=1)
    )
    clip = sound(*parts)
    text = "".join(data.draw(st.lists(st.sampled_from(list("abc 山水火1,")), min_size=1, max_size=20)))
    peaks = data.draw(
        st.lists(
            st.tuples(st.sampled_from("abc 山水火"), st.floats(0, max(0.0, len(clip) / RATE_HZ - 0.03))), max_size=9
        )
    )
    found = align(clip, text, [(one, max(at_s, 0.0)) for one, at_s in peaks], language="zh")
    if isinstance(found, Fault):
        return
    assert len(found.times) == len(found.spans)
    ends = [at_s for one in found.times for at_s in (one.start_s, one.end_s)]
    assert all(one <= following for one, following in itertools.pairwise(ends))
    assert ends[0] >= 0
    assert ends[-1] <= len(clip) / RATE_HZ
    assert all(one.score is not None or one.start_s == one.end_s for one in found.times)

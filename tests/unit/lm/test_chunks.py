import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.lm import chunks
from cslm.lm.chunks import Spoken, Word

# A few words of each script, and what stands between words in it.
SCRIPTS = {
    "latin": (["Hello", "it's", "sky", "ÉTÉ", "l’eau"], [" ", ", ", ". ", "? ¿", " — ", '." ', " («"]),
    "han": (["今天", "天气", "好", "U2", "不"], ["", "，", "。", "、“", "！"]),
    "arabic": (["مرحبا", "كيف", "الحال", "اليوم"], [" ", "، ", "؟ ", ". "]),
    "devanagari": (["नमस्ते", "क्या", "हाल", "है"], [" ", "। ", ", ", "? "]),
    "thai": (["วันนี้", "อากาศ", "ดี", "มาก"], ["", " ", "... "]),
}


@st.composite
def utterances(draw):
    """A text, and units with its words in order."""
    words, gaps = SCRIPTS[draw(st.sampled_from(sorted(SCRIPTS)))]
    chosen = draw(st.lists(st.sampled_from(words), min_size=1, max_size=40))
    text = draw(st.sampled_from(["", " ", "«", "¿"]))
    num_units = draw(st.integers(1, 60))
    bounds = sorted(draw(st.lists(st.integers(0, num_units), min_size=2 * len(chosen), max_size=2 * len(chosen))))
    aligned = []
    for number, word in enumerate(chosen):
        start, end = bounds[2 * number : 2 * number + 2]
        aligned.append(Word(word, start, start if draw(st.booleans()) and draw(st.booleans()) else end))
        text += word + draw(st.sampled_from(gaps))
    return text, Spoken(range(num_units), aligned)


@given(utterances(), st.integers(1, 12))
def test_chunks_are_the_text_and_the_units(utterance, num_words):
    text, spoken = utterance
    found = chunks.cut(text, spoken, num_words)
    assert "".join(chunk.text for chunk in found) == text
    assert list(itertools.chain.from_iterable(chunk.units for chunk in found)) == list(spoken.units)
    assert all(chunk.units for chunk in found)
    assert all(chunk.text for chunk in found)


@given(utterances(), st.integers(1, 12))
def test_no_word_is_parted(utterance, num_words):
    text, spoken = utterance
    left = [word.text for word in spoken.words]
    for chunk in chunks.cut(text, spoken, num_words):
        at = 0
        while left and (place := chunk.text.find(left[0], at)) >= 0:
            at = place + len(left.pop(0))
    assert not left


@given(utterances(), st.integers(1, 12))
def test_chunks_begin_where_a_word_does(utterance, num_words):
    text, spoken = utterance
    starts = {word.start for word in spoken.words if word.end > word.start}
    cuts = list(itertools.accumulate(len(chunk.units) for chunk in chunks.cut(text, spoken, num_words)))[:-1]
    assert starts.issuperset(cuts)


def test_cuts_fall_at_punctuation_near_the_length():
    text = "It was a bright cold day in April, and the clocks were striking thirteen. So it goes on and on"
    spoken = _evenly([word.strip(",.") for word in text.split()])
    found = [chunk.text for chunk in chunks.cut(text, spoken, 7)]
    assert found == [
        "It was a bright cold day in April,",
        " and the clocks were striking thirteen.",
        " So it goes on and on",
    ]


def test_a_long_clause_is_cut_into_even_pieces():
    spoken = _evenly([f"w{number:02d}" for number in range(24)])
    text = " ".join(word.text for word in spoken.words)
    lengths = [len(chunk.text.split()) for chunk in chunks.cut(text, spoken, 7)]
    assert lengths == [8, 8, 8]


def test_signs_that_open_go_with_what_they_open():
    spoken = _evenly(["Sí", "Y", "tú"])
    assert [chunk.text for chunk in chunks.cut("Sí. ¿Y tú?", spoken, 1)] == ["Sí.", " ¿Y", " tú?"]
    assert [chunk.text for chunk in chunks.cut("好，“对”。", _evenly(["好", "对"]), 1)] == ["好，", "“对”。"]


def test_silence_stays_with_the_chunk_it_ends():
    words = [Word("one", 2, 5), Word("two", 9, 12)]
    spoken = Spoken(range(15), words)
    assert [chunk.units for chunk in chunks.cut("one two", spoken, 1)] == [list(range(9)), list(range(9, 15))]


def test_a_word_without_sound_stays_with_its_neighbour():
    words = [Word("a", 0, 4), Word("—", 4, 4), Word("b", 4, 8)]
    spoken = Spoken(range(8), words)
    assert [chunk.text for chunk in chunks.cut("a — b", spoken, 1)] == ["a —", " b"]
    silent = Spoken([1, 2], [Word("x", 0, 0), Word("y", 0, 2)])
    assert [chunk.text for chunk in chunks.cut("x y", silent, 1)] == ["x y"]


@pytest.mark.parametrize("num_words", [1, 3, 7])
def test_the_cuts_are_those_of_least_cost(num_words):
    gaps = [" ", ", ", " ", ". ", " ", " ", "; ", " "]
    costs = {" ": 0.5, ", ": 0.1, "; ": 0.1, ". ": 0.0}

    def cost(firsts):
        ends = [*firsts[1:], len(gaps) + 1]
        lengths = sum(((end - first) / num_words - 1) ** 2 for first, end in zip(firsts, ends, strict=True))
        return lengths + sum(costs[gaps[first - 1]] for first in firsts[1:])

    ways = [[0, *(i + 1 for i in range(len(gaps)) if mask >> i & 1)] for mask in range(2 ** len(gaps))]
    assert math.isclose(cost(chunks.word_cuts(gaps, num_words)), min(cost(way) for way in ways))


def test_words_of_another_text_are_refused():
    with pytest.raises(ValueError, match="'two' does not"):
        chunks.cut("one three", _evenly(["one", "two"]), 7)
    with pytest.raises(ValueError, match="aligned"):
        chunks.cut("one", Spoken([1]), 7)


def _evenly(words):
    return Spoken(range(4 * len(words)), [Word(w, 4 * i, 4 * i + 4) for i, w in enumerate(words)])

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.evaluate.metrics import edit_counts, is_right, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two, plus  THREE!", "two plus three"),
        ("¿Cómo está?", "cómo está"),
        ("二 加 三，等于五。", "二加三等于五"),
        ("ＡＢＣ １２", "abc 12"),
        ("l'été", "l été"),
    ],
)
def test_normalised_text(text, expected):
    assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("reference", "hypothesis", "characters", "words"),
    [
        ("Two plus three.", "two plus three", 0, 0),
        ("two plus three", "two plus tree", 1, 1),
        ("二加三", "二加四", 1, 1),
        ("abc", "", 3, 1),
        ("", "abc", 3, 1),
    ],
)
def test_errors_are_counted_after_normalising(reference, hypothesis, characters, words):
    counts = edit_counts(reference, hypothesis)
    assert (counts.character_errors, counts.word_errors) == (characters, words)


@given(st.text(alphabet="ab cd", max_size=20))
def test_a_text_has_no_errors_against_itself(text):
    counts = edit_counts(text, text)
    assert counts.character_errors == counts.word_errors == 0
    assert counts.characters == len(normalise(text).replace(" ", ""))


def test_an_answer_is_right_only_as_a_whole():
    accepted = ["Five.", "It is five."]
    assert is_right("five", accepted)
    assert is_right("It is five", accepted)
    assert not is_right("twenty five", accepted)
    assert not is_right("five six", accepted)
    assert not is_right("", accepted)
    assert not is_right("十五。", ["五。"])

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.data.text_normal import CHANGES, normalise


@pytest.mark.parametrize(
    ("found", "expected", "changes"),
    [
        ("Zwei und drei.", "Zwei und drei.", []),
        ("", "", []),
        (" two  words ", "two words", ["spaces"]),
        ("two\tcolumns\r\nand lines", "two columns and lines", ["line_breaks", "spaces"]),
        ("one\u2028two", "one two", ["line_breaks"]),
        ("wide\u3000and\u00a0hard", "wide and hard", ["spaces"]),
        ("cafe\u0301", "café", ["nfc"]),
        ("\ufeffMark", "Mark", ["byte_order_mark"]),
        ("be\x07ll\x00", "bell", ["control_characters"]),
        ("\u202bright\u202c to\u200e left", "right to left", ["invisible_characters"]),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth", ["invisible_characters"]),
        ("half \ud83d pair", "half pair", ["unpaired_surrogates", "spaces"]),
        ("\n \u200b\t", "", ["invisible_characters", "line_breaks", "spaces"]),
        # what was taken away stood between a letter and its accent
        ("e\u200b\u0301", "é", ["invisible_characters", "nfc"]),
    ],
)
def test_texts_come_to_one_form_and_the_changes_are_named(found, expected, changes):
    assert normalise(found) == (expected, changes)


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: non-joiner between two parts of a verb
        "PDF\u200cها",  # Persian plural behind a Latin word
        "ශ්\u200dරී",  # Sinhala: joiner behind a virama
        "अवन\u094d\u200d",  # joiner at the end of a word
        "👩\u200d💻",
    ],
)
def test_joiners_stay_where_a_script_is_spelled_with_them(text):
    assert normalise(text) == (text, [])


@pytest.mark.parametrize("text", ["hel\u200clo", "hel\u200dlo", "\u200d中\u200c文", "a \u200c b", "می\u200c"])
def test_joiners_go_where_no_script_needs_them(text):
    found, changes = normalise(text)
    assert "\u200c" not in found
    assert "\u200d" not in found
    assert "invisible_characters" in changes


def test_two_joiners_are_one():
    assert normalise("می\u200c\u200cخواهم") == ("می\u200cخواهم", ["invisible_characters"])


def test_the_layout_can_be_kept():
    program = "\nTry:\r\n\tfor i in x:  \n\t    print(i)\u00a0# now\n\n"
    found, changes = normalise(program, keep_layout=True)
    assert found == "Try:\n\tfor i in x:\n\t    print(i) # now"
    assert changes == ["line_breaks", "spaces"]


# Characters that the steps treat, among ones they leave alone.
MIXED = st.text(
    st.one_of(
        st.sampled_from(
            "ae\u0301\u0338 \t\n\r\x85\u2028\u00a0\u200b\u200c\u200d\ufeff\x00\ud800\u094dනیमु👩\ufe0f\u2adc가ᄀ"
        ),
        st.characters(),
    )
)


@given(MIXED, st.booleans())
def test_the_form_is_a_fixed_point_that_can_be_written(text, keep_layout):
    found, changes = normalise(text, keep_layout=keep_layout)
    assert normalise(found, keep_layout=keep_layout) == (found, [])
    assert unicodedata.is_normalized("NFC", found)
    assert found == found.strip() or keep_layout
    assert set(changes) <= set(CHANGES)
    assert bool(changes) == (found != text)
    assert json.loads(json.dumps(found).encode()) == found
    found.encode()


@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd", "Po", "Sm"])))
def test_letters_digits_and_punctuation_are_only_composed(text):
    assert normalise(text)[0] == unicodedata.normalize("NFC", text)

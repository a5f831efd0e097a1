"""The verdict on a language by what its units carry, beside known languages."""

from dataclasses import replace

import pytest

from cslm.languages import ceiling
from cslm.languages.ceiling import Carried, CeilingSection

KNOWN = {
    "en": Carried(0.10, 0.20, 0.20, 0.8, 20.0, 1.0, 40, 1500),
    "zh": Carried(0.20, 0.32, 0.30, 0.9, 22.0, 1.0, 40, 1500),
}
LIKE_THEM = Carried(0.15, 0.27, 0.26, 0.85, 21.0, 1.0, 40, 1500)


def grade(new: Carried, known: dict[str, Carried] | None = None) -> str:
    return ceiling.judge(new, KNOWN if known is None else known, CeilingSection()).grade


def test_a_language_like_the_known_ones_goes() -> None:
    opinion = ceiling.judge(LIKE_THEM, KNOWN, CeilingSection())
    assert opinion.grade == "go"
    assert len(opinion.reasons) == 4
    assert "15.0% of the characters of the recordings and on 27.0% after" in opinion.reasons[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resynthesis_error": 0.40}, "caution"),
        ({"resynthesis_error": 0.70}, "no-go"),
        ({"reader_error": 0.45}, "caution"),
        ({"reader_error": 0.80}, "no-go"),
        ({"usage": 0.3}, "caution"),
        ({"units_per_s": 60.0}, "caution"),
        ({"units_per_s": 8.0}, "caution"),
        ({"script_share": 0.9}, "caution"),
        ({"script_share": 0.1}, "no-go"),
    ],
)
def test_each_look_can_stop_it(changes: dict[str, float], expected: str) -> None:
    opinion = ceiling.judge(replace(LIKE_THEM, **changes), KNOWN, CeilingSection())
    assert opinion.grade == expected
    assert opinion.reasons[0].startswith(f"{expected}: ")


def test_a_listener_that_does_not_know_the_language_says_nothing_of_the_units() -> None:
    opinion = ceiling.judge(replace(LIKE_THEM, original_error=0.6, resynthesis_error=1.2), KNOWN, CeilingSection())
    assert opinion.grade == "caution"
    assert "does not know the language" in opinion.reasons[0]


def test_without_known_languages_only_what_is_absolute_is_judged() -> None:
    assert grade(LIKE_THEM, {}) == "caution"
    assert grade(replace(LIKE_THEM, resynthesis_error=0.2), {}) == "go"
    assert grade(replace(LIKE_THEM, reader_error=0.7), {}) == "no-go"


def test_what_was_not_looked_at_is_not_judged() -> None:
    nothing = replace(LIKE_THEM, original_error=None, resynthesis_error=None, reader_error=None, script_share=None)
    opinion = ceiling.judge(nothing, KNOWN, CeilingSection())
    assert opinion.grade == "go"
    assert len(opinion.reasons) == 1

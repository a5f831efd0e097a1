"""The gate over scores of single items: targets, margins and how sure a fall is, languages of answers."""

import math
from collections.abc import Mapping

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.languages import gate
from cslm.languages.gate import GateSection, Verdict

SECTION = GateSection(bootstrap=BootstrapSection(resamples=300))
NUM_ITEMS = 100


def scores(shares: Mapping[str, float], num_items: int = NUM_ITEMS) -> pa.Table:
    """`shares` of the items count in each measure: `asr/en/cer`."""
    rows = []
    for name, share in shares.items():
        task, _, metric = name.rpartition("/")
        rows += [figures.score(task, metric, f"i{n}", [n < round(share * num_items), 1]) for n in range(num_items)]
    return figures.table(rows)


def judge(candidate: Mapping[str, float], champion: Mapping[str, float] | None = None, **changes: object) -> Verdict:
    section = SECTION.model_copy(update=changes)
    before = None if champion is None else scores(champion)
    return gate.judge(scores(candidate), before, targets={"asr/fr/cer": 0.2}, known=("en", "zh"), section=section)


GOOD = {"asr/fr/cer": 0.1, "asr/en/cer": 0.1}


def test_the_first_model_has_only_its_targets_to_reach() -> None:
    assert judge(GOOD).passed
    verdict = judge({**GOOD, "asr/fr/cer": 0.21})
    assert not verdict.passed
    assert verdict.reasons[0].startswith("asr/fr/cer: the card asks for at most 0.2, found 0.21 (")
    assert judge({**GOOD, "asr/fr/cer": 0.2}).passed


def test_a_target_that_is_not_measured_is_not_reached() -> None:
    verdict = judge({"asr/en/cer": 0.1})
    assert "asr/fr/cer: must be measured" in verdict.reasons[0]


def test_patterns_of_targets_ask_every_measure_that_fits() -> None:
    table = scores({"answer/en-fr/accuracy": 0.9, "answer/fr-fr/accuracy": 0.4})
    verdict = gate.judge(table, None, targets={"answer/*-fr/accuracy": 0.5}, known=(), section=SECTION)
    assert len(verdict.checks) == 2
    assert verdict.reasons[0].startswith("answer/fr-fr/accuracy: the card asks for at least 0.5, found 0.4")


def test_a_fall_beyond_the_margin_that_is_not_chance_is_refused() -> None:
    verdict = judge({**GOOD, "asr/en/cer": 0.3}, {"asr/en/cer": 0.1})
    assert not verdict.passed
    (check,) = [one for one in verdict.checks if one.kind == "kept"]
    assert (check.before, check.value, check.bound) == (0.1, 0.3, 0.02)
    assert check.fall == pytest.approx(0.2)
    assert check.low is not None
    assert check.low > 0
    assert check.p_value is not None
    assert check.p_value < 0.05
    assert "p = " in check.told
    assert "beyond it" in check.told


def test_a_fall_within_the_margin_and_a_rise_pass() -> None:
    assert judge({**GOOD, "asr/en/cer": 0.12}, {"asr/en/cer": 0.1}).passed
    assert judge({**GOOD, "asr/en/cer": 0.02}, {"asr/en/cer": 0.1}).passed
    falls = {**GOOD, "answer/en-zh/accuracy": 0.5}
    assert not judge(falls, {"answer/en-zh/accuracy": 0.9}).passed
    assert judge({**falls, "answer/en-zh/accuracy": 0.9}, {"answer/en-zh/accuracy": 0.5}).passed


def test_a_fall_that_may_be_chance_passes_unless_strict() -> None:
    # One item of a hundred against none, then three: the interval of the fall reaches to zero or below.
    before, after = {"asr/en/cer": 0.0}, {**GOOD, "asr/en/cer": 0.03}
    found = judge(after, before, margins={"asr/*/cer": 0.0})
    (check,) = [one for one in found.checks if one.kind == "kept"]
    assert check.low == 0.0
    assert found.passed
    assert "may be chance" in check.told
    assert not judge(after, before, margins={"asr/*/cer": 0.0}, strict=True).passed
    assert judge({**GOOD, "asr/en/cer": 0.1}, {"asr/en/cer": 0.1}, strict=True).passed


def test_without_intervals_no_fall_is_called_chance() -> None:
    section = SECTION.model_copy(update={"bootstrap": BootstrapSection(resamples=0)})
    verdict = gate.judge(
        scores({"asr/en/cer": 0.5}), scores({"asr/en/cer": 0.4}), targets={}, known=("en",), section=section
    )
    assert not verdict.passed


def test_new_languages_have_nothing_to_fall_from() -> None:
    assert judge({**GOOD, "answer/en-fr/accuracy": 0.1}, {"asr/en/cer": 0.1, "answer/en-fr/accuracy": 0.9}).passed


def test_tasks_on_text_have_margins_relative_to_the_champion() -> None:
    def perplexity(value: float) -> pa.Table:
        rows = [
            figures.score("text/en", "perplexity", f"i{n}", [math.log(value) * 10, 10], "perplexity") for n in range(30)
        ]
        return figures.table(rows)

    for value, passed in ((4.3, True), (5.0, False), (3.0, True)):
        verdict = gate.judge(perplexity(value), perplexity(4.0), targets={}, known=("en",), section=SECTION)
        assert verdict.passed is passed


def test_a_measure_that_the_candidate_lost_is_refused() -> None:
    verdict = judge({"asr/fr/cer": 0.1}, {"asr/en/cer": 0.1})
    assert "asr/en/cer: must be measured of the candidate too" in verdict.reasons[0]


@pytest.mark.parametrize(("ids", "errors"), [("other", 1.0), ("i", math.nan)])
def test_what_cannot_be_compared_is_not_kept(ids: str, errors: float) -> None:
    """On items that the champion was not asked, or of a model that broke down."""
    found = figures.table([figures.score("asr/en", "cer", f"{ids}{n}", [errors, 10]) for n in range(9)])
    verdict = gate.judge(found, scores({"asr/en/cer": 0.1}), targets={}, known=("en",), section=SECTION)
    assert "asr/en/cer: must be measured of the candidate too" in verdict.reasons[0]


def test_answers_in_another_language_are_bounded_in_every_direction() -> None:
    verdict = judge({**GOOD, "answer/fr-fr/off_target": 0.2, "answer/en-fr/speech_off_target": 0.1})
    assert [check.passed for check in verdict.checks if check.kind == "off_target"] == [True, False]
    assert judge({**GOOD, "answer/fr-fr/off_target": 0.2}, max_off_target=0.25).passed
    mixed = {**GOOD, "answer/fr-fr/off_target": 0.2, "answer/fr-fr/speech_off_target": 0.4}
    (failed,) = judge(mixed, max_speech_off_target=0.5).reasons
    assert failed.startswith("answer/fr-fr/off_target: at most 0.1")


def test_speech_is_not_judged_by_a_listener_that_does_not_know_its_language() -> None:
    spoken = {"answer/en-fr/speech_off_target": 1.0, "answer/fr-en/speech_off_target": 0.0}
    assert not judge({**GOOD, **spoken, "tts/fr/original_cer": 0.3}).passed
    verdict = judge({**GOOD, **spoken, "tts/fr/original_cer": 0.6})
    assert verdict.passed
    assert "not judged, as the listener errs on 60.0%" in verdict.checks[-2].told
    others = {**spoken, "answer/fr-en/speech_off_target": 1.0, "tts/fr/original_cer": 0.6}
    assert not judge({**GOOD, **others}).passed


def test_measures_of_few_items_are_told_and_not_judged() -> None:
    verdict = judge({**GOOD, "asr/en/cer": 0.9}, {"asr/en/cer": 0.1}, min_items=NUM_ITEMS + 1)
    assert verdict.passed
    assert any("not judged" in check.told for check in verdict.checks)


@hypothesis_settings(max_examples=30)
@given(before=st.floats(0, 1), after=st.floats(0, 1), margin=st.floats(0, 0.5), more=st.floats(0, 0.5))
def test_a_wider_margin_never_refuses_what_a_narrower_lets_through(
    before: float, after: float, margin: float, more: float
) -> None:
    candidate, champion = scores({"asr/en/cer": after}, 30), scores({"asr/en/cer": before}, 30)
    for strict in (False, True):
        verdicts = []
        for size in (margin, margin + more):
            section = GateSection(margins={"asr/*/cer": size}, strict=strict, bootstrap=BootstrapSection(resamples=50))
            verdicts.append(gate.judge(candidate, champion, targets={}, known=("en",), section=section).passed)
        assert verdicts[1] or not verdicts[0]


@hypothesis_settings(max_examples=30)
@given(share=st.floats(0, 1), strict=st.booleans())
def test_a_model_is_let_through_against_itself(share: float, strict: bool) -> None:
    table = scores({"asr/en/cer": share, "answer/en-zh/accuracy": share}, 30)
    section = GateSection(strict=strict, bootstrap=BootstrapSection(resamples=50))
    assert gate.judge(table, table, targets={}, known=("en", "zh"), section=section).passed


@hypothesis_settings(max_examples=30)
@given(before=st.floats(0, 1), after=st.floats(0, 1), margin=st.floats(0, 0.5))
def test_what_strict_lets_through_does_not_fall_beyond_its_margin(before: float, after: float, margin: float) -> None:
    candidate, champion = scores({"asr/en/cer": after}, 30), scores({"asr/en/cer": before}, 30)
    section = GateSection(margins={"asr/*/cer": margin}, strict=True, bootstrap=BootstrapSection(resamples=200))
    verdict = gate.judge(candidate, champion, targets={}, known=("en",), section=section)
    (check,) = verdict.checks
    assert check.fall is not None
    if verdict.passed:
        # The figure itself lies in the middle of its interval, up to what resampling leaves open.
        assert check.fall <= margin + 0.05

"""The gate: may a candidate take the champion's place? Pure functions over the scores of two evaluations.

Three questions. Does the new language reach the targets of its card? Does any old language, or any task on text, fall
by more than is allowed? Do answers stay in the language that was asked for? The second is asked on the same items of
both models by the paired bootstrap, and every verdict says how sure it is: a fall is held against a candidate when it
is larger than its margin and not chance; with `strict` a candidate has to show that it is within the margin.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import pyarrow as pa
from pydantic import model_validator

from cslm.config import Section, group, setting
from cslm.data.mixture import is_known
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection, Difference
from cslm.evaluate.figures import Figure

Kind = Literal["target", "kept", "off_target"]
_OFF_TARGET = ("off_target", "speech_off_target")


class GateSection(Section):
    """What a candidate may lose, and how that is told from chance."""

    margins: dict[str, float] = setting(
        {
            "asr/*/cer": 0.02,
            "tts/*/cer": 0.05,
            "mt/*/chrf": 2.0,
            "st/*/chrf": 2.0,
            "answer/*/accuracy": 0.05,
            "answer/*/speech_accuracy": 0.05,
        },
        "how far a measure of old languages may fall, in its own unit (0.02 of an error rate, 2.0 chrF); the first "
        "name that fits counts, `*` stands for anything, and a measure that no name fits is not judged",
    )
    relative_margins: dict[str, float] = setting(
        {"text/*/perplexity": 0.1, "mt/*/perplexity": 0.1},
        "the same as a share of the champion's value: for measures without a unit of their own",
    )
    max_off_target: float = setting(
        0.1, "largest share of answers in another language than asked for, in text or speech, in any direction", ge=0
    )
    max_speech_off_target: float | None = setting(
        None,
        "the same for speech, whose language is told by what a listener heard; max_off_target when not given",
        ge=0,
    )
    max_listener_error: float = setting(
        0.5,
        "with more character errors in recordings of a language (tts/<language>/original_cer) the listener does not "
        "know it, and the language of speech in it, which is told by what was heard, is not judged",
        ge=0,
    )
    min_items: int = setting(1, "measures of fewer items are told but not judged", ge=1)
    strict: bool = setting(
        False,
        "refuse what is not shown to be within its margin (the interval of the fall must end before it); otherwise "
        "refuse what is shown to fall and falls by more than the margin",
    )
    bootstrap: BootstrapSection = group(BootstrapSection, "how sure a fall is")

    @model_validator(mode="after")
    def _margins_are_sizes(self) -> "GateSection":
        wrong = [name for name, size in {**self.margins, **self.relative_margins}.items() if size < 0]
        if wrong:
            raise ValueError(f"margins must be at least 0, found less for {', '.join(wrong)}")
        if self.strict and not self.bootstrap.resamples:
            raise ValueError("strict needs intervals: bootstrap.resamples must be above 0")
        return self


@dataclass(frozen=True)
class Check:
    """One thing that was asked of the candidate, with the answer."""

    kind: Kind
    measure: str
    passed: bool
    told: str
    # The candidate's value and the bound for it; of the champion, what it fell by and how sure that is.
    value: float | None
    bound: float
    before: float | None = None
    fall: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    num_items: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may be promoted, and all that was asked."""

    passed: bool
    checks: list[Check]

    @property
    def reasons(self) -> list[str]:
        """What speaks against the candidate, a sentence each."""
        return [check.told for check in self.checks if not check.passed]


def judge(
    candidate: pa.Table,
    champion: pa.Table | None,
    *,
    targets: Mapping[str, float],
    known: Sequence[str],
    section: GateSection,
) -> Verdict:
    """The verdict on a candidate by its `scores` table and the champion's (None where there is none yet).

    `targets` are those of the new languages' cards; `known` the languages that the champion has.
    """
    found = {one.name: one for one in figures.figures(candidate, section.bootstrap)}
    checks = _targets(found, targets)
    if champion is not None:
        compared = figures.compared(champion, candidate, section.bootstrap)
        for task, metric, difference in compared:
            margin = _margin(f"{task}/{metric}", difference.a, section)
            if margin is not None and is_known(task, known):
                checks.append(_kept(f"{task}/{metric}", metric, difference, margin, section))
        checks += _lost({f"{task}/{metric}" for task, metric, _ in compared} & set(found), champion, known, section)
    unheard = _unheard(found, section)
    checks += [_on_target(one, unheard, section) for one in found.values() if one.metric in _OFF_TARGET]
    return Verdict(all(check.passed for check in checks), checks)


def _targets(found: Mapping[str, Figure], targets: Mapping[str, float]) -> list[Check]:
    checks = []
    for pattern, bound in targets.items():
        fitting = [one for name, one in sorted(found.items()) if fnmatchcase(name, pattern)]
        if not fitting:
            told = f"{pattern}: must be measured, as the card asks for {bound:g}; the evaluation has no such measure"
            checks.append(Check("target", pattern, False, told, None, bound))
        for one in fitting:
            # The bound itself is reached.
            passed = one.value == bound or figures.is_better(one.metric, one.value - bound)
            least = "at most" if figures.is_better(one.metric, -1.0) else "at least"
            told = (
                f"{one.name}: the card asks for {least} {bound:g}, found {one.value:.4g} "
                f"({one.low:.4g} to {one.high:.4g}, {one.num_items} items)"
            )
            bounds = {"low": one.low, "high": one.high}
            checks.append(Check("target", one.name, passed, told, one.value, bound, num_items=one.num_items, **bounds))
    return checks


def _margin(name: str, before: float, section: GateSection) -> float | None:
    for pattern, size in section.margins.items():
        if fnmatchcase(name, pattern):
            return size
    for pattern, share in section.relative_margins.items():
        if fnmatchcase(name, pattern):
            return share * abs(before)
    return None


def _kept(name: str, metric: str, found: Difference, margin: float, section: GateSection) -> Check:
    """The fall of a measure: how much worse the candidate is, above 0 for worse whichever way the measure goes."""
    sign = 1.0 if figures.is_better(metric, -1.0) else -1.0
    fall = sign * found.difference
    low, high = sorted((sign * found.low, sign * found.high))
    is_beyond, is_shown = fall > margin, low > 0
    if section.strict:
        passed = high <= margin
        how = "shown to be within it" if passed else "not shown to be within it"
    elif not is_beyond:
        passed, how = True, "within it"
    else:
        # Without intervals nothing can be called chance.
        passed = not is_shown and low == low
        how = "beyond it, but it may be chance" if passed else "beyond it"
    if found.num_items < section.min_items:
        passed, how = True, f"not judged, as gate.min_items is {section.min_items}"
    confidence = f"{100 * section.bootstrap.confidence:g} %"
    told = (
        f"{name}: {found.a:.4g} -> {found.b:.4g}, a fall of {fall:.4g} ({low:.4g} to {high:.4g} with {confidence}, "
        f"p = {found.p_value:.3g}, {found.num_items} items) where {margin:.4g} is allowed: {how}"
    )
    return Check("kept", name, passed, told, found.b, margin, found.a, fall, low, high, found.p_value, found.num_items)


def _lost(asked: Set[str], champion: pa.Table, known: Sequence[str], section: GateSection) -> list[Check]:
    """Measures of the champion that the candidate was not asked for on any of its items, or has no value of.

    What is not measured is not kept.
    """
    quick = section.bootstrap.model_copy(update={"resamples": 0})
    checks = []
    for one in figures.figures(champion, quick):
        margin = _margin(one.name, one.value, section)
        if margin is not None and is_known(one.task, known) and one.name not in asked:
            told = (
                f"{one.name}: must be measured of the candidate too, on the champion's items, as the champion has "
                f"{one.value:.4g}; it was not"
            )
            checks.append(Check("kept", one.name, False, told, None, margin, one.value))
    return checks


def _unheard(found: Mapping[str, Figure], section: GateSection) -> Mapping[str, float]:
    """The languages that the listener does not know, with its error on their recordings."""
    heard = {one.task.partition("/")[2]: one.value for one in found.values() if one.metric == "original_cer"}
    return {language: error for language, error in heard.items() if error > section.max_listener_error}


def _on_target(one: Figure, unheard: Mapping[str, float], section: GateSection) -> Check:
    is_speech, bound = one.metric == "speech_off_target", section.max_off_target
    if is_speech and section.max_speech_off_target is not None:
        bound = section.max_speech_off_target
    passed = one.value <= bound or one.num_items < section.min_items
    told = (
        f"{one.name}: at most {bound:g} of the answers may be in another language, found "
        f"{one.value:.4g} ({one.num_items} items)"
    )
    for language, error in unheard.items():
        if is_speech and one.task.endswith(f"-{language}"):
            passed = True
            told += f": not judged, as the listener errs on {error:.1%} of the characters of recordings in {language}"
    return Check("off_target", one.name, passed, told, one.value, bound, num_items=one.num_items)

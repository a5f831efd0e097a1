"""The ceiling test: does the speech tokenizer carry a language, told before anything is spent on the language model?

A model hears a language through units alone, so what units lose is lost to every model. Four looks, each beside the
languages that are known: what a listener makes of speech that went through units and back, against the same speech as
it was recorded; what a small reader of fixed training reads from units; how much of the codebook is in use and how many
units a second costs; and whether the transcripts are of the script that the card names. Pure functions over figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from cslm.config import Section, setting

Grade = Literal["go", "caution", "no-go"]
_ORDER: tuple[Grade, ...] = ("go", "caution", "no-go")


class CeilingSection(Section):
    """From where on a language is told with caution, and from where on not at all."""

    max_original_error: float = setting(
        0.5,
        "with more character errors in the recordings themselves the listener does not know the language, and what it "
        "hears of resynthesis says nothing",
        ge=0,
    )
    caution_added_error: float = setting(0.1, "character errors that units add, beyond those of known languages", ge=0)
    no_go_added_error: float = setting(0.3, "the same", ge=0)
    caution_reader_ratio: float = setting(1.5, "the reader's character error over that of known languages", ge=1)
    no_go_reader_ratio: float = setting(3.0, "the same; only where the error itself is above no_go_reader_error", ge=1)
    no_go_reader_error: float = setting(0.6, "the reader's character error from which on nothing is carried", ge=0)
    caution_usage_ratio: float = setting(0.5, "share of the codebook in use over that of known languages", ge=0)
    caution_rate_ratio: float = setting(
        2.0, "units a second over those of known languages, or the other way round", ge=1
    )
    caution_script_share: float = setting(0.95, "share of letters in the card's script", ge=0, le=1)
    no_go_script_share: float = setting(0.5, "the same", ge=0, le=1)


@dataclass(frozen=True)
class Carried:
    """What was seen of one language; None where it was not looked at."""

    original_error: float | None
    resynthesis_error: float | None
    reader_error: float | None
    usage: float
    units_per_s: float
    script_share: float | None
    num_listened: int
    num_read: int

    @property
    def added_error(self) -> float | None:
        """Character errors that units add to those of the recordings."""
        if self.original_error is None or self.resynthesis_error is None:
            return None
        return self.resynthesis_error - self.original_error


@dataclass(frozen=True)
class Opinion:
    """The verdict on a language and what it rests on, a sentence each, the gravest first."""

    grade: Grade
    reasons: list[str]


def judge(new: Carried, known: Mapping[str, Carried], section: CeilingSection) -> Opinion:
    """Go, caution or no-go for one language beside the known ones, which may be none."""
    found = [
        *_listening(new, known, section),
        *_reading(new, known, section),
        *_rates(new, known, section),
        *_script(new, section),
    ]
    grades: list[Grade] = [one for one, _ in found]
    grade: Grade = max(grades, key=_ORDER.index, default="caution")
    ordered = sorted(found, key=lambda one: -_ORDER.index(one[0]))
    return Opinion(grade, [f"{one}: {told}" for one, told in ordered])


def _listening(new: Carried, known: Mapping[str, Carried], section: CeilingSection) -> list[tuple[Grade, str]]:
    if new.added_error is None or new.original_error is None:
        return []
    heard = (
        f"the listener errs on {new.original_error:.1%} of the characters of the recordings and on "
        f"{new.resynthesis_error:.1%} after encoding and decoding"
    )
    if new.original_error > section.max_original_error:
        return [("caution", f"{heard}: it does not know the language, so this says nothing of the units")]
    usual = _mean([one.added_error for one in known.values()])
    beyond = new.added_error - (usual or 0.0)
    beside = f", {beyond:+.1%} beside the known languages" if usual is not None else ""
    return [(_grade(beyond, section.caution_added_error, section.no_go_added_error), heard + beside)]


def _reading(new: Carried, known: Mapping[str, Carried], section: CeilingSection) -> list[tuple[Grade, str]]:
    if new.reader_error is None:
        return []
    usual = _mean([one.reader_error for one in known.values()])
    told = f"a small reader errs on {new.reader_error:.1%} of the characters that it reads from units"
    if usual is None:
        return [("no-go" if new.reader_error > section.no_go_reader_error else "go", told)]
    ratio = new.reader_error / max(usual, 1e-9)
    grade: Grade = "caution" if ratio > section.caution_reader_ratio else "go"
    if ratio > section.no_go_reader_ratio and new.reader_error > section.no_go_reader_error:
        grade = "no-go"
    return [(grade, f"{told}, {ratio:.2f} times as many as of the known languages ({usual:.1%})")]


def _rates(new: Carried, known: Mapping[str, Carried], section: CeilingSection) -> list[tuple[Grade, str]]:
    usage, rate = (_mean([getattr(one, name) for one in known.values()]) for name in ("usage", "units_per_s"))
    told = f"{new.usage:.1%} of the codebook in use, {new.units_per_s:.1f} units a second"
    if not usage or not rate:
        return [("go", told)]
    uses, costs = new.usage / usage, new.units_per_s / rate
    fits = uses >= section.caution_usage_ratio and max(costs, 1 / max(costs, 1e-9)) <= section.caution_rate_ratio
    beside = f" ({usage:.1%} and {rate:.1f} of the known languages)"
    return [("go" if fits else "caution", told + beside)]


def _script(new: Carried, section: CeilingSection) -> list[tuple[Grade, str]]:
    if new.script_share is None:
        return []
    told = f"{new.script_share:.1%} of the letters of the transcripts are of the card's script"
    return [(_grade(-new.script_share, -section.caution_script_share, -section.no_go_script_share), told)]


def _grade(value: float, caution: float, no_go: float) -> Grade:
    return "no-go" if value > no_go else "caution" if value > caution else "go"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None

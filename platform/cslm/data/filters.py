"""Which utterances are worth training on: thresholds on level, clipping, speaking rate and transcript.

Every threshold is wide by default: it catches what is broken, not what is unusual. Each can be switched off, and each
has a reason of its own in the table of rejects.
"""

import unicodedata
from functools import cache
from typing import NamedTuple, Self

import numpy as np
from pydantic import model_validator

from cslm.config import Section, setting
from cslm.speech.audio import Clip, Waveform

# A letter of these scripts says more than one of an alphabet: a syllable, or a word.
_LETTERS_A_CHARACTER = (
    ("CJK UNIFIED", 3.0), ("CJK COMPATIBILITY", 3.0), ("HANGUL SYLLABLE", 2.5), ("HIRAGANA", 2.0), ("KATAKANA", 2.0),
    ("ETHIOPIC", 2.0), ("YI SYLLABLE", 2.5), ("CHEROKEE", 2.0), ("CANADIAN SYLLABICS", 2.0),
)  # fmt: skip
# "1984" is read as "nineteen eighty-four", "7" as "seven".
_LETTERS_A_DIGIT = 3.0
# Beyond it the difference of large sums would say little of what is faint.
_LARGE_OFFSET = 0.01


class FiltersSection(Section):
    """Which utterances are kept out of training; `null` switches a threshold off."""

    min_level_dbfs: float | None = setting(
        -60.0, "audio whose loudest second is fainter (RMS without offset) is silence", unit="dBFS", le=0
    )
    max_clipped: float | None = setting(
        0.1, "largest share of samples that may stand at full scale", unit="fraction", ge=0, le=1
    )
    min_speaking_rate: float | None = setting(
        0.3, "less transcript for the length of the audio is a wrong pair", unit="characters/s", ge=0
    )
    max_speaking_rate: float | None = setting(
        50.0, "more transcript likewise; a Chinese character counts as three, a digit too", unit="characters/s", gt=0
    )
    require_text: bool = setting(False, "reject rows without a transcript that has a letter or digit")
    duplicate_audio: bool = setting(True, "of several utterances with the same samples keep the first alone")

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        low, high = self.min_speaking_rate, self.max_speaking_rate
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_speaking_rate must be less than max_speaking_rate ({high:g}), found {low:g}")
        return self


class Fault(NamedTuple):
    """Why an utterance is not kept: the reason in the rejects table, and what a person should know."""

    error: str
    message: str


def text_fault(text: str | None, section: FiltersSection) -> Fault | None:
    """The fault of a transcript, None when it may be kept."""
    if not section.require_text:
        return None
    remedy = "fill it, drop the row, or set filters.require_text to false"
    if not text:
        return Fault("empty_text", f"a row must have a transcript (filters.require_text), found none; {remedy}")
    if not spoken_characters(text):
        found = f"{text[:40]!r}"
        return Fault("unspeakable_text", f"a transcript must have a letter or a digit, found {found}; {remedy}")
    return None


def clip_fault(clip: Clip, text: str | None, sample_rate_hz: int, section: FiltersSection) -> Fault | None:
    """The first fault of a decoded utterance, None when it may be kept."""
    if section.min_level_dbfs is not None:
        level_db = loudest_second_dbfs(clip.samples, sample_rate_hz)
        if level_db < section.min_level_dbfs:
            needed = f"of at least {section.min_level_dbfs:g} dBFS (filters.min_level_dbfs)"
            message = f"the loudest second must have a level {needed}, found {level_db:.1f}; lower the limit or drop it"
            return Fault("silent", message)
    if section.max_clipped is not None and clip.clipped > section.max_clipped:
        needed = f"at most {section.max_clipped:.2%} of the samples must stand at full scale (filters.max_clipped)"
        return Fault("clipped", f"{needed}, found {clip.clipped:.2%}; record it again at a lower level or drop the row")
    return _rate_fault(text, len(clip.samples) / sample_rate_hz, section) if text else None


def loudest_second_dbfs(samples: Waveform, sample_rate_hz: int) -> float:
    """RMS of the loudest second (of seconds that begin every half second) without its offset, dB below full scale.

    A clip of less than a second is measured whole.
    """
    half = sample_rate_hz // 2
    num_halves = len(samples) // half
    if num_halves < 2:
        centred = samples - samples.mean()
        power = float(np.dot(centred, centred)) / len(centred)
    else:
        halves = samples[: num_halves * half].reshape(num_halves, half)
        sums = halves.sum(1, dtype=np.float64)
        offset = (sums.sum() + samples[num_halves * half :].sum(dtype=np.float64)) / len(samples)
        if abs(offset) > _LARGE_OFFSET:
            halves, sums, offset = halves - np.float32(offset), np.zeros(num_halves), 0.0
        # Of samples less their offset, without a copy of them: sum (x - m)^2 = sum x^2 - 2 m sum x + n m^2.
        energy = np.einsum("nt,nt->n", halves, halves) - 2 * offset * sums + half * offset**2
        power = max(float((energy[1:] + energy[:-1]).max()), 0.0) / (2 * half)
    return 10 * float(np.log10(power + 1e-20))


def spoken_characters(text: str) -> float:
    """Letters and digits of a text as an alphabet would write what is heard; signs and marks count nothing."""
    return sum(map(_letters, text))


def _rate_fault(text: str, audio_s: float, section: FiltersSection) -> Fault | None:
    low, high = section.min_speaking_rate, section.max_speaking_rate
    if low is None and high is None:
        return None
    rate = spoken_characters(text) / audio_s
    if (low is None or rate >= low) and (high is None or rate <= high):
        return None
    limits = f"{low or 0:g} to {high or float('inf'):g}"
    needed = f"{limits} characters a second (filters.min_speaking_rate, filters.max_speaking_rate)"
    found = f"{rate:.2f} ({text[:40]!r} in {audio_s:.2f} s)"
    remedy = "mend the transcript or the span, or widen the limits"
    return Fault("characters_per_second", f"a transcript must have {needed}, found {found}; {remedy}")


@cache
def _letters(character: str) -> float:
    if character.isascii():
        return 1.0 if character.isalpha() else _LETTERS_A_DIGIT if character.isdigit() else 0.0
    if character.isnumeric() and not character.isalpha():
        return _LETTERS_A_DIGIT
    if not character.isalpha():
        return 0.0
    name = unicodedata.name(character, "")
    return next((weight for script, weight in _LETTERS_A_CHARACTER if name.startswith(script)), 1.0)

"""Clips with their texts -> the times of their words, or the reason why there are none.

Here the parts come together: the aligner's outputs, the path through them that spells the text, and from its peaks and
the sound the times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.speech import ctc, word_times
from cslm.speech.aligners import Aligner, Float32
from cslm.speech.sound import Sound
from cslm.speech.spelling import Spelling, spell
from cslm.speech.tokenizer import plan_batches
from cslm.speech.word_times import WordTime


class LimitsSection(Section):
    """Which alignments are taken."""

    min_score: float | None = setting(
        -3.0, "mean log probability of an utterance's symbols below which it is rejected as poor_score; null takes any"
    )
    min_known: float = setting(
        0.7, "share of a text's letters that the aligner must know, or it is rejected as unknown_symbols", ge=0, le=1
    )


@dataclass(frozen=True)
class Aligned:
    """The words of an utterance: spans of its text, their times, and the mean log probability of all its symbols."""

    spans: list[tuple[int, int]]
    times: list[WordTime]
    score: float


@dataclass(frozen=True)
class Fault:
    """Why an utterance could not be aligned: a short reason and what a person should know."""

    error: str
    message: str


@dataclass(frozen=True)
class Path:
    """Where the symbols of a spelling peak in a sound, in seconds (S,), and their log probabilities (S,)."""

    spelling: Spelling
    peaks_S: NDArray[np.float64]
    scores_S: Float32
    sound: Sound


def paths(
    aligner: Aligner, clips: Sequence[Float32], texts: Sequence[str], language: str, min_known: float
) -> list[Path | Fault]:
    """The likeliest path of each text (of one language) through its clip (T,) at the aligner's rate."""
    spelled = [_spelled(text, language, aligner, min_known) for text in texts]
    found: list[Path | Fault] = [one if isinstance(one, Fault) else _NOT_YET for one in spelled]
    taken = [number for number, one in enumerate(spelled) if isinstance(one, Spelling)]
    lengths_s = [len(clips[number]) / aligner.sample_rate_hz for number in taken]
    for batch in plan_batches(lengths_s, aligner.batch_s):
        numbers = [taken[place] for place in batch]
        outputs = aligner.log_probs([clips[number] for number in numbers], language)
        for number, log_probs_FV in zip(numbers, outputs, strict=True):
            spelling = spelled[number]
            assert isinstance(spelling, Spelling)
            found[number] = _path(aligner, spelling, log_probs_FV, Sound(clips[number], aligner.sample_rate_hz))
    return found


def align(
    aligner: Aligner,
    clips: Sequence[Float32],
    texts: Sequence[str],
    language: str,
    latency_s: float,
    limits: LimitsSection,
) -> list[Aligned | Fault]:
    """The words of each clip (T,); `latency_s` is told by `latency`."""
    return [
        one if isinstance(one, Fault) else _aligned(one, latency_s, limits)
        for one in paths(aligner, clips, texts, language, limits.min_known)
    ]


def latency(found: Sequence[Path | Fault]) -> tuple[float, int]:
    """What `word_times.latency` tells of paths."""
    return word_times.latency((one.spelling, one.peaks_S, one.sound) for one in found if isinstance(one, Path))


_NOT_YET = Fault("", "")


def _spelled(text: str, language: str, aligner: Aligner, min_known: float) -> Spelling | Fault:
    spelling = spell(text, language, aligner)
    if spelling.num_letters == 0:
        return Fault("no_symbols", f"a text must have letters or digits, found {text[:40]!r}; mend or drop the row")
    share = spelling.num_known / spelling.num_letters
    if not spelling.symbols or share < min_known:
        return Fault(
            "unknown_symbols",
            f"the aligner must know {min_known:.0%} of the letters (limits.min_known), found {share:.0%} of "
            f"{text[:40]!r}; take an aligner of this language and script",
        )
    return spelling


def _path(aligner: Aligner, spelling: Spelling, log_probs_FV: Float32, sound: Sound) -> Path | Fault:
    found = ctc.forced(log_probs_FV, spelling.symbols, aligner.blank)
    if found is None:
        return Fault(
            "impossible",
            f"audio must have a frame for each symbol of its text and one between equal neighbours, found "
            f"{len(log_probs_FV)} frames for {len(spelling.symbols)} symbols; the text is of more than is said",
        )
    starts_S, ends_S, scores_S = found
    peaks_S = np.array(
        [
            start + int(log_probs_FV[start:end, symbol].argmax())
            for start, end, symbol in zip(starts_S, ends_S, spelling.symbols, strict=True)
        ]
    )
    return Path(spelling, peaks_S / aligner.frame_rate_hz, scores_S, sound)


def _aligned(path: Path, latency_s: float, limits: LimitsSection) -> Aligned | Fault:
    score = float(path.scores_S.mean())
    if limits.min_score is not None and score < limits.min_score:
        return Fault(
            "poor_score",
            f"the text must be heard with a mean log probability of {limits.min_score:g} a symbol (limits.min_score), "
            f"found {score:.2f}; another text is said, or the aligner does not know this speech",
        )
    times = word_times.place(path.spelling, path.peaks_S, path.scores_S, latency_s, path.sound)
    return Aligned(path.spelling.spans, times, score)

"""From the frames at which an aligner's symbols peak to where words begin and end.

A symbol of CTC peaks some time after its sound begins: once enough of it was heard. In alphabets that time is nearly
the same for all letters, `latency_s`, and is told from the audio alone: words begin where the spectrum changes. What
stands for a syllable may come later, as late as the syllable behind it where only both together can be told. Of those
symbols the beginnings are found again from three things that are weighed against each other: not after the peak and
rather shortly before it, syllables of one breath about equally long, and where the spectrum changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cslm.speech.sound import HOP_S, Sound
from cslm.speech.spelling import SEPARATOR, Spelling

# Used where there is too little speech to tell.
USUAL_LATENCY_S = 0.04
_LATENCIES = np.arange(-4, 21)  # in steps of HOP_S
_MIN_BEGINNINGS = 30
# What begins so shortly around the end of a silence begins with it.
_SNAP_S = 0.1
# Weights of the search for syllables, found on synthetic Mandarin: mean delay beyond the latency, deviation of the
# logarithm of a length from the mean one, and how much a change of the spectrum is worth.
_GRID_S = 0.02
_DELAY_S, _LENGTH_DEVIATION, _CHANGE_WEIGHT = 0.3, 0.3, 1.2
# Of speech no change is much greater; steady sounds, whose median change is nearly none, have them.
_GREATEST_CHANGE = 5.0
_LONGEST_SYLLABLE_S = 1.0


@dataclass(frozen=True)
class WordTime:
    """Where a word lies, and the mean log probability of its symbols, None for one without symbols and so no length."""

    start_s: float
    end_s: float
    score: float | None


def latency(utterances: Iterable[tuple[Spelling, NDArray[np.float64], Sound]]) -> tuple[float, int]:
    """How long after the beginning of a word its first symbol peaks, in seconds, and from how many words that is told.

    Of each utterance its spelling, the times (S,) of its peaks, and its sound. The first word counts nothing: it
    follows a silence, out of which networks tell it sooner.
    """
    changes: list[NDArray[np.float64]] = []
    for spelling, peaks_S, sound in utterances:
        beginnings = [first for first, _ in _symbols_of_words(spelling) if first > 0]
        steps_NL = np.rint(peaks_S[beginnings][:, None] / HOP_S).astype(int) - _LATENCIES
        padded = np.append(sound.change, 0.0)
        changes.append(padded[np.clip(steps_NL, 0, len(padded) - 1)])
    found_NL = np.concatenate(changes) if changes else np.zeros((0, len(_LATENCIES)))
    if len(found_NL) < _MIN_BEGINNINGS:
        return USUAL_LATENCY_S, len(found_NL)
    smooth_L = np.convolve(found_NL.mean(0), [0.25, 0.5, 0.25], mode="valid")
    best = int(smooth_L.argmax())
    # The top of the parabola through three steps.
    shift = 0.0
    if 0 < best < len(smooth_L) - 1:
        before, top, behind = smooth_L[best - 1 : best + 2]
        shift = 0.5 * (before - behind) / min(before - 2 * top + behind, -1e-9)
    # A change lies between two frames, whose times are those of their middles.
    return round(float((_LATENCIES[best + 1] + shift + 0.5) * HOP_S), 4), len(found_NL)


def place(
    spelling: Spelling, peaks_S: NDArray[np.float64], scores_S: NDArray[np.floating], latency_s: float, sound: Sound
) -> list[WordTime]:
    """The time of each word of `spelling`, in order and within the sound, from the times of its symbols' peaks."""
    onsets_S = np.clip(peaks_S - latency_s, 0, sound.duration_s)
    onsets_S = _respaced(spelling, onsets_S, sound)
    firsts = dict(zip(_with_symbols(spelling), _symbols_of_words(spelling), strict=True))
    starts = {word: float(onsets_S[first]) for word, (first, _) in firsts.items()}
    lasts = {word: max(float(onsets_S[last]), float(peaks_S[last]) - latency_s) for word, (_, last) in firsts.items()}
    known = list(firsts)
    ends: dict[int, float] = {}
    if known:
        starts[known[0]] = _after_silence(starts[known[0]], sound, float(peaks_S[firsts[known[0]][0]]))
        # A network may tell the first symbol while it is still silent; that silence does not end the word.
        lasts[known[0]] = max(lasts[known[0]], starts[known[0]])
    for word, following in zip(known, [*known[1:], None], strict=True):
        limit = sound.duration_s if following is None else starts[following]
        silence = _silence_between(sound, lasts[word], limit, last=following is None)
        if silence is None:
            ends[word] = limit
            continue
        ends[word] = min(silence[0], limit)
        if following is not None and limit < silence[1] + _SNAP_S:
            starts[following] = max(silence[1], ends[word])
    return _in_order(len(spelling.spans), starts, ends, firsts, scores_S, sound.duration_s)


def _in_order(
    num_words: int,
    starts: dict[int, float],
    ends: dict[int, float],
    symbols: dict[int, tuple[int, int]],
    scores_S: NDArray[np.floating],
    duration_s: float,
) -> list[WordTime]:
    found: list[WordTime] = []
    at = min(starts.values(), default=0.0)
    for word in range(num_words):
        if word not in starts:
            found.append(WordTime(at, at, None))
            continue
        start_s = min(max(starts[word], at), duration_s)
        at = min(max(ends[word], start_s), duration_s)
        first, last = symbols[word]
        found.append(WordTime(start_s, at, float(scores_S[first : last + 1].mean())))
    return found


def _with_symbols(spelling: Spelling) -> list[int]:
    """Words that have symbols, in order."""
    return [int(word) for word in np.unique(spelling.owners) if word != SEPARATOR]


def _symbols_of_words(spelling: Spelling) -> list[tuple[int, int]]:
    """First and last symbol of each word that has some."""
    places = [np.flatnonzero(spelling.owners == word) for word in _with_symbols(spelling)]
    return [(int(found[0]), int(found[-1])) for found in places]


def _after_silence(start_s: float, sound: Sound, peak_s: float) -> float:
    """The beginning of the first word: at the end of the silence before it where that is near, or within it."""
    for silence_start_s, silence_end_s in reversed(sound.silences):
        if silence_start_s <= max(start_s, 0.0) and silence_end_s < sound.duration_s:
            near = start_s <= silence_end_s + _SNAP_S
            return silence_end_s if near else start_s
    return min(start_s, _SNAP_S) if not sound.silences and peak_s < 2 * _SNAP_S else start_s


def _silence_between(sound: Sound, last_s: float, limit_s: float, *, last: bool) -> tuple[float, float] | None:
    """The longest silence after a word's last symbol and before the next word; behind the last word the first one."""
    found = [
        (start_s, end_s)
        for start_s, end_s in sound.silences
        if end_s > last_s + HOP_S and start_s < limit_s and start_s > last_s - _GRID_S
    ]
    if not found:
        return None
    return found[0] if last else max(found, key=lambda silence: silence[1] - silence[0])


def _respaced(spelling: Spelling, onsets_S: NDArray[np.float64], sound: Sound) -> NDArray[np.float64]:
    """The same beginnings, but those of syllables found anew within each breath."""
    found_S = onsets_S.copy()
    for first, end in _runs(spelling.syllabic):
        # Silences part breaths; a syllable is in that in which it peaks.
        cuts = [start_s for start_s, _ in sound.silences]
        breaths = np.searchsorted(cuts, onsets_S[first:end], side="right")
        for breath in np.unique(breaths):
            members = first + np.flatnonzero(breaths == breath)
            left_s = sound.silences[breath - 1][1] if breath > 0 else 0.0
            right_s = sound.silences[breath][0] if breath < len(sound.silences) else sound.duration_s
            if members[0] > 0 and found_S[members[0] - 1] > left_s:
                # Behind a letter of another script nothing tells better when the first one begins.
                left_s = float(onsets_S[members[0]])
            if members[-1] + 1 < len(onsets_S):
                right_s = min(right_s, float(onsets_S[members[-1] + 1]))
            found_S[members] = _syllables(onsets_S[members], left_s, right_s, sound.change)
    return found_S


def _syllables(
    latest_N: NDArray[np.float64], left_s: float, right_s: float, change_F: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Beginnings (N,) of syllables that fill `left_s` to `right_s`: none later than `latest_N`, the first at the left.

    The path of least cost over a grid of `_GRID_S`.
    """
    count = len(latest_N)
    size = int((right_s - left_s) / _GRID_S)
    if size < count + 1 or (count == 1 and latest_N[0] - left_s < 2 * _GRID_S):
        return latest_N
    grid_G = left_s + _GRID_S * np.arange(size)
    near_G = np.rint(grid_G / HOP_S).astype(int)
    padded_F = np.append(np.minimum(change_F, _GREATEST_CHANGE), (0.0, 0.0))
    worth_G = _CHANGE_WEIGHT * np.maximum(*(padded_F[np.clip(near_G + i, 0, len(padded_F) - 1)] for i in (0, 1)))
    lengths_L = _GRID_S * np.arange(1, round(_LONGEST_SYLLABLE_S / _GRID_S) + 1)
    mean_s = (right_s - left_s) / count
    unlikely_L = (np.log(lengths_L / mean_s) / _LENGTH_DEVIATION) ** 2 / 2
    cost_G = np.full(size, np.inf)
    cost_G[0] = 0.0
    choices: list[NDArray[np.int64]] = []
    for latest in latest_N[1:]:
        # Of every place the costs of the places before it, the nearest first.
        padded_G = np.concatenate((np.full(len(lengths_L), np.inf), cost_G))[:-1]
        before_GL = np.lib.stride_tricks.sliding_window_view(padded_G, len(lengths_L))[:, ::-1] + unlikely_L
        choices.append(before_GL.argmin(1) + 1)
        delay_G = latest - grid_G
        cost_G = before_GL.min(1) - worth_G + np.where(delay_G > -_GRID_S, np.maximum(delay_G, 0) / _DELAY_S, np.inf)
    to_end_G = np.rint((right_s - grid_G) / _GRID_S).astype(int).clip(1, len(lengths_L)) - 1
    at = int((cost_G + unlikely_L[to_end_G]).argmin())
    if not np.isfinite(cost_G[at]):
        return latest_N
    found = [at]
    for choice_G in reversed(choices):
        at -= int(choice_G[at])
        found.append(at)
    beginnings_N: NDArray[np.float64] = grid_G[np.array(found[::-1])]
    return beginnings_N


def _runs(flags: Sequence[bool] | NDArray[np.bool_]) -> list[tuple[int, int]]:
    padded = np.concatenate(([False], np.asarray(flags, bool), [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))

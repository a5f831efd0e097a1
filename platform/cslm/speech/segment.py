"""Long recordings -> utterances: where the pauses are, and where to cut so that no word is.

Two ways find the speech: a network for voice activity (silero-vad, from its wheel, without a network connection), or
the energy alone. Both give one value a frame. Where to cut follows from those values by arithmetic that a test can
state: utterances are in order and disjoint, none is too long, all speech is in one of them.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from cslm.config import Section, setting
from cslm.errors import AudioError
from cslm.speech.audio import Recording, Waveform

SCAN_RATE_HZ = 16_000
Span = tuple[int, int]

_VAD_FRAME = 512  # samples: what silero-vad takes at 16 kHz
# Speech begins above the first and ends below the second probability, the network's own thresholds.
_VAD_THRESHOLDS = (0.5, 0.35)
_ENERGY_FRAME = 320  # samples: 20 ms
# Shares of the way from the noise to the loudest speech in dB; weak consonants lie 25 dB below the vowels.
_ENERGY_THRESHOLDS = (0.35, 0.25)
_ENERGY_RANGE_DB = 40.0
# A recording whose level moves less than this has no pauses that energy could tell.
_ENERGY_LEAST_RANGE_DB = 6.0
_FLOOR_DB = -100.0
# The level that voice activity is looked for at, around each moment, and what still counts as sound below the loudest.
_GAIN_TARGET_DB = -10.0
_GAIN_WINDOW_S = 2.0
_GAIN_RANGE_DB = 30.0
# Clicks are shorter.
_LEAST_SPEECH_S = 0.06


class SegmentSection(Section):
    """How recordings without a transcript are split. Rows with a transcript or a span are never split."""

    by: Literal["vad", "energy", "none"] = setting(
        "vad", "what finds the pauses: silero-vad (the extra `vad`), the energy alone; none: nothing is split"
    )
    max_s: float = setting(30.0, "longer recordings are split into utterances of at most this", unit="s", ge=1)
    search_s: float = setting(
        12.0, "an utterance that gets too long ends at the longest pause of its last so many seconds", unit="s", gt=0
    )
    pause_s: float = setting(1.0, "a pause as long as this always ends an utterance", unit="s", gt=0)
    min_pause_s: float = setting(0.1, "a shorter silence is no pause but part of a word", unit="s", gt=0)
    keep_silence_s: float = setting(0.2, "silence kept before and after an utterance; the rest goes", unit="s", ge=0)

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.search_s >= self.max_s:
            raise ValueError(f"search_s must be less than max_s ({self.max_s:g} s), found {self.search_s:g} s")
        if self.min_pause_s > self.pause_s:
            raise ValueError(f"min_pause_s must be at most pause_s ({self.pause_s:g} s), found {self.min_pause_s:g} s")
        return self


@dataclass(frozen=True)
class Activity:
    """How much each frame (F,) of `frame_s` seconds is speech, 0 to 1, and where speech begins and ends."""

    values_F: NDArray[np.float32]
    frame_s: float
    begins_at: float
    ends_at: float


def utterances(
    recording: Recording, section: SegmentSection, channels: Literal["mean", "first"], first_s: float | None = None
) -> list[tuple[float, float]]:
    """Spans (start_s, end_s) of the utterances of a recording, none where there is no speech.

    With `first_s` only so much of its beginning is looked at. Raises AudioError: what decoding raises, and needs_vad.
    """

    def blocks() -> Iterator[Waveform]:
        return _first(recording.stream(SCAN_RATE_HZ, channels), first_s)

    activity = voice_activity(blocks) if section.by == "vad" else energy_activity(blocks())
    return split(activity, section)


def split(activity: Activity, section: SegmentSection) -> list[tuple[float, float]]:
    """Spans in seconds of the utterances that the activity shows."""

    def frames(seconds: float) -> int:
        return max(1, round(seconds / activity.frame_s))

    speech = speech_runs(activity, frames(section.min_pause_s), frames(_LEAST_SPEECH_S))
    spans = cut(
        speech,
        activity.values_F,
        max_frames=max(2, int(section.max_s / activity.frame_s)),
        search_frames=frames(section.search_s),
        pause_frames=frames(section.pause_s),
        keep_frames=round(section.keep_silence_s / activity.frame_s),
    )
    return [(start * activity.frame_s, end * activity.frame_s) for start, end in spans]


def speech_runs(activity: Activity, min_pause: int, min_speech: int) -> list[Span]:
    """Runs [start, end) of frames of speech; silences shorter than `min_pause` frames belong to the speech around.

    Runs shorter than `min_speech` frames are taken for noise.
    """
    values_F = activity.values_F
    # Between the two thresholds a frame is what the frame before it was.
    state_F = np.where(values_F >= activity.begins_at, 1, np.where(values_F < activity.ends_at, 0, -1))
    known_F = np.maximum.accumulate(np.where(state_F >= 0, np.arange(len(state_F)), -1))
    speech_F = np.where(known_F >= 0, state_F[known_F], 0)
    edges = np.flatnonzero(np.diff(speech_F, prepend=0, append=0)).reshape(-1, 2)
    runs: list[Span] = []
    for start, end in edges.tolist():
        if runs and start - runs[-1][1] < min_pause:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return [(start, end) for start, end in runs if end - start >= min_speech]


def cut(
    speech: Sequence[Span],
    activity_F: NDArray[Any],
    *,
    max_frames: int,
    search_frames: int,
    pause_frames: int,
    keep_frames: int,
) -> list[Span]:
    """Utterances [start, end) of at most `max_frames` frames, in order and disjoint, that hold every run of `speech`.

    `speech` are disjoint runs in order, between which the pauses are. A pause of `pause_frames` always ends an
    utterance. One that would get too long ends at the longest pause of its last `search_frames`, else at the last
    pause before; only a run that is too long by itself is cut inside, at the least active of its last `search_frames`
    frames. Up to `keep_frames` of silence stay at both ends.
    """
    cores: list[Span] = []
    first, begin = 0, speech[0][0] if speech else 0
    while first < len(speech):
        last = first
        if speech[first][1] - begin > max_frames:
            window = begin + max(1, max_frames - search_frames)
            place = window + int(np.argmin(activity_F[window : begin + max_frames]))
            cores.append((begin, place))
            begin = place
            continue
        while last + 1 < len(speech) and _pause(speech, last) < pause_frames:
            if speech[last + 1][1] - begin > max_frames:
                near = [run for run in range(first, last) if speech[run][1] - begin >= max_frames - search_frames]
                last = max([*near, last], key=lambda run: (_pause(speech, run), run))
                break
            last += 1
        cores.append((begin, speech[last][1]))
        first = last + 1
        begin = speech[first][0] if first < len(speech) else 0
    return _with_silence(cores, len(activity_F), max_frames, keep_frames)


def voice_activity(blocks: Callable[[], Iterable[Waveform]]) -> Activity:
    """Probabilities of speech by silero-vad for samples at 16 kHz, which are asked for twice: levels come first.

    Raises AudioError (needs_vad) without the package.
    """
    if importlib.util.find_spec("silero_vad") is None:
        needed, remedy = "to be split by voice activity", "pip install 'cslm[vad]', or set segment.by to energy or none"
        raise AudioError("needs_vad", f"a long recording must be {needed}, found no package silero-vad; {remedy}")
    import torch

    gains_F = _even_level(np.array([_power(frame) for frame in _framed(blocks(), _VAD_FRAME)]))
    # The network is too small for more than one thread; its package sets one for the whole process when imported.
    num_threads = torch.get_num_threads()
    try:
        model = _silero()
        torch.set_num_threads(1)
        model.reset_states()
        with torch.no_grad():
            values = [
                model(torch.from_numpy(np.clip(frame * gain, -1, 1)), SCAN_RATE_HZ).item()
                for frame, gain in zip(_framed(blocks(), _VAD_FRAME), gains_F, strict=True)
            ]
    finally:
        torch.set_num_threads(num_threads)
    return Activity(np.array(values, np.float32), _VAD_FRAME / SCAN_RATE_HZ, *_VAD_THRESHOLDS)


def energy_activity(blocks: Iterable[Waveform]) -> Activity:
    """Where each frame's level lies between the recording's noise and its loudest speech, for samples at 16 kHz."""
    level_F = _levels_db(np.array([_power(frame) for frame in _framed(blocks, _ENERGY_FRAME)]))
    loudest, noise = np.percentile(level_F, [99, 10]) if len(level_F) else (0.0, 0.0)
    if loudest - noise < _ENERGY_LEAST_RANGE_DB:
        # All is speech, the louder the more, so that a cut still falls on the faintest place.
        values_F = 0.5 + 0.5 * np.clip((level_F - level_F.min(initial=0)) / 60, 0, 1)
    else:
        noise = max(noise, loudest - _ENERGY_RANGE_DB)
        values_F = np.clip((level_F - noise) / (loudest - noise), 0, 1)
    return Activity(values_F.astype(np.float32), _ENERGY_FRAME / SCAN_RATE_HZ, *_ENERGY_THRESHOLDS)


def _even_level(power_F: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gains of frames (F,) that bring the loudest sound around each to one level.

    The network of silero-vad 6.2 hears next to nothing of some speech at 0.1 to 0.25 of full scale that it hears whole
    when louder or fainter. Sounds far below the recording's loudest are noise and stay faint.
    """
    level_F = _levels_db(power_F)
    width = 2 * round(_GAIN_WINDOW_S * SCAN_RATE_HZ / _VAD_FRAME / 2) + 1
    level_F = np.lib.stride_tricks.sliding_window_view(np.pad(level_F, width // 2, mode="edge"), width).max(1)
    level_F = np.maximum(level_F, np.percentile(level_F, 99) - _GAIN_RANGE_DB)
    level_F = np.convolve(np.pad(level_F, width // 2, mode="edge"), np.full(width, 1 / width), "valid")
    gains_F: NDArray[np.float32] = (10 ** ((_GAIN_TARGET_DB - level_F) / 20)).astype(np.float32)
    return gains_F


def _levels_db(power_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of frames (F,), each smoothed over its neighbours."""
    if len(power_F) > 2:
        power_F = np.convolve(np.pad(power_F, 1, mode="edge"), np.full(3, 1 / 3), "valid")
    level_F: NDArray[np.float64] = 10 * np.log10(power_F + 10 ** (_FLOOR_DB / 10))
    return level_F


def _power(frame: Waveform) -> float:
    return float(np.dot(frame, frame)) / len(frame)


def _pause(speech: Sequence[Span], run: int) -> int:
    return speech[run + 1][0] - speech[run][1]


def _with_silence(cores: Sequence[Span], num_frames: int, max_frames: int, keep_frames: int) -> list[Span]:
    """Widen utterances into the pauses around them; two that share a pause get a half each at most."""
    spans: list[Span] = []
    for number, (start, end) in enumerate(cores):
        after = cores[number + 1][0] - end if number + 1 < len(cores) else 2 * (num_frames - end)
        before = start - cores[number - 1][1] if number else 2 * start
        room = max_frames - (end - start)
        left = min(keep_frames, before - before // 2, room // 2)
        right = min(keep_frames, after // 2, room - left)
        spans.append((start - left, end + right))
    return spans


def _framed(blocks: Iterable[Waveform], size: int) -> Iterator[Waveform]:
    """Samples in frames of one size; the last is filled up with zeros."""
    held = np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate((held, block)) if len(held) else block
        whole = len(held) // size * size
        yield from held[:whole].reshape(-1, size)
        held = held[whole:]
    if len(held):
        yield np.pad(held, (0, size - len(held)))


def _first(blocks: Iterator[Waveform], seconds: float | None) -> Iterator[Waveform]:
    left = np.inf if seconds is None else seconds * SCAN_RATE_HZ
    for block in blocks:
        yield block
        left -= len(block)
        if left <= 0:
            return


@cache
def _silero() -> Any:
    return importlib.import_module("silero_vad").load_silero_vad(onnx=False)

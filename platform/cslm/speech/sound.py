"""What is heard in a clip without knowing what is said: where it is silent, and where its spectrum changes.

Frames stand 10 ms apart: frame i is about the sound around `i * HOP_S`. Levels are taken relative to the clip's own,
so that neither the gain of a recording nor steady noise below its speech matters.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

HOP_S = 0.01
_WINDOW_S = 0.025
_NUM_BANDS = 21
_LOWEST_HZ = 90.0
# A change is that between the mean of so many frames before and behind: 30 ms, shorter than any syllable.
_SIDE = 3
# Shorter silences are closures of consonants, which belong to their words.
_MIN_SILENCE_S = 0.12
# Silent is what lies this far below the loud parts, or near the quietest, but never what is nearly as loud.
_BELOW_LOUD_DB, _ABOVE_QUIET_DB, _LEAST_BELOW_DB = 40.0, 6.0, 20.0
_TINY = 1e-10


@dataclass(frozen=True)
class Sound:
    """A clip: mono samples (T,) and their rate."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate_hz

    @cached_property
    def silences(self) -> list[tuple[float, float]]:
        """Silent stretches (start_s, end_s) in order, those at the ends however short."""
        level_F = self._level_db
        loud, quiet = np.percentile(level_F, [95, 5])
        limit = min(max(loud - _BELOW_LOUD_DB, quiet + _ABOVE_QUIET_DB), loud - _LEAST_BELOW_DB)
        silent = np.concatenate(([False], level_F < limit, [False]))
        edges = np.flatnonzero(silent[1:] != silent[:-1])
        found = []
        for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            at_an_end = first == 0 or end == len(level_F)
            if at_an_end or (end - first) * HOP_S >= _MIN_SILENCE_S:
                found.append((first * HOP_S, self.duration_s if end == len(level_F) else end * HOP_S))
        return found

    @cached_property
    def change(self) -> NDArray[np.float64]:
        """How much the spectrum changes at each frame (F,), 1 for the median of the clip."""
        bands_FB = self._bands
        num_frames = len(bands_FB)
        change_F = np.zeros(num_frames)
        if num_frames > 2 * _SIDE:
            sums_FB = np.concatenate((np.zeros((1, _NUM_BANDS)), bands_FB.cumsum(0)))
            means_FB = (sums_FB[_SIDE:] - sums_FB[:-_SIDE]) / _SIDE  # of frames i .. i + _SIDE
            steps_F = np.abs(means_FB[_SIDE:] - means_FB[:-_SIDE]).mean(1)
            change_F[_SIDE : _SIDE + len(steps_F)] = steps_F
        relative_F: NDArray[np.float64] = change_F / (np.median(change_F) + 1e-6)
        return relative_F

    @property
    def _level_db(self) -> NDArray[np.float64]:
        hop = round(HOP_S * self.rate_hz)
        whole = len(self.samples) // hop
        if whole == 0:
            return np.zeros(1)
        frames_FH = self.samples[: whole * hop].reshape(whole, hop)
        level_F: NDArray[np.float64] = 10 * np.log10((frames_FH.astype(np.float64) ** 2).mean(1) + _TINY)
        return level_F

    @property
    def _bands(self) -> NDArray[np.float64]:
        """Log power (F, B) in bands whose widths grow with their pitch."""
        window, hop = round(_WINDOW_S * self.rate_hz), round(HOP_S * self.rate_hz)
        num_frames = max(1, len(self.samples) // hop)
        padded = np.pad(self.samples, (window // 2, window))
        frames_FW = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:num_frames]
        size = 1 << (window - 1).bit_length()
        power_FK = np.abs(np.fft.rfft(frames_FW * np.hanning(window).astype(np.float32), size)) ** 2
        edges = np.geomspace(_LOWEST_HZ / self.rate_hz * size, size // 2, _NUM_BANDS + 1).round().astype(int)
        edges = np.maximum.accumulate(edges + np.arange(len(edges)) * (np.diff(edges, prepend=-1) == 0))
        sums_FK = np.concatenate((np.zeros((num_frames, 1)), power_FK.cumsum(1)), 1)
        widths_B = np.maximum(np.diff(edges), 1)
        bands_FB = (sums_FK[:, edges[1:]] - sums_FK[:, edges[:-1]]) / widths_B
        floor = 1e-5 * bands_FB.mean() + _TINY
        logs: NDArray[np.float64] = np.log(np.maximum(bands_FB, 0) + floor)
        return logs

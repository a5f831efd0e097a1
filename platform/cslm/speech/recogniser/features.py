"""Audio -> log-mel frames: 80 bands, 100 frames a second, normalised over the clip.

Mean and variance of each band are taken over the clip, which removes gain and channel. In a recording longer than
`WINDOW_S` they are taken over the `WINDOW_S` around each frame: what a frame depends on is bounded then, and speakers
who take turns do not share one normalisation.
"""

import math
from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
HOP = 160  # samples: 10 ms
NUM_MELS = 80
WINDOW_S = 30.0
# Goes up when the same audio gets other features.
VERSION = 1

_LENGTH = 400  # samples of a frame: 25 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 7600.0
# So far below the mean power nothing is heard: 50 dB. What is relative does not change with the gain.
_FLOOR = 1e-5
_TINY = 1e-12
_WINDOW_FRAMES = round(WINDOW_S * SAMPLE_RATE_HZ / HOP)
_FRAMES_AT_ONCE = 8192


def features(samples_T: Tensor, num_frames: int) -> Tensor:
    """Samples (T,) at 16 kHz -> normalised log-mel frames (num_frames, 80) on the same device."""
    return normalise(log_mel(samples_T, num_frames))


def log_mel(samples_T: Tensor, num_frames: int) -> Tensor:
    """Samples (T,) -> log power in each mel band (num_frames, 80), over a floor 50 dB below the mean power around it.

    Frame i is centred on sample 160 i + 80; beyond the ends of the clip there is silence.
    """
    before = (_LENGTH - HOP) // 2
    after = max(0, (num_frames - 1) * HOP + _LENGTH - before - len(samples_T))
    padded_T = torch.nn.functional.pad(samples_T, (before, after))
    window_L, filters_BM = _hann().to(samples_T.device), _mel_filters().to(samples_T.device)
    parts = []
    for first in range(0, num_frames, _FRAMES_AT_ONCE):
        end = min(first + _FRAMES_AT_ONCE, num_frames)
        frames_FL = padded_T[first * HOP : (end - 1) * HOP + _LENGTH].unfold(0, _LENGTH, HOP)
        spectrum_FB = torch.fft.rfft(frames_FL * window_L, _FFT)
        parts.append((spectrum_FB.real**2 + spectrum_FB.imag**2) @ filters_BM)
    power_FM = torch.cat(parts)
    mean_F1 = _windowed_mean(power_FM.mean(1, keepdim=True, dtype=torch.float64))
    return torch.log(power_FM + (_FLOOR * mean_F1 + _TINY).float())


def normalise(log_mel_FM: Tensor) -> Tensor:
    """Zero mean and unit variance of each band (F, 80), over the clip or the `WINDOW_S` around each frame."""
    wide_FM = log_mel_FM.double()
    mean_FM = _windowed_mean(wide_FM)
    variance_FM = (_windowed_mean(wide_FM**2) - mean_FM**2).clamp(min=0)
    return ((wide_FM - mean_FM) / (variance_FM + 1e-2).sqrt()).float()


def _windowed_mean(values_FD: Tensor) -> Tensor:
    """Mean over all frames (1, D), or (F, D) over the window around each, which is moved inwards at the ends."""
    num_frames = len(values_FD)
    if num_frames <= _WINDOW_FRAMES:
        return values_FD.mean(0, keepdim=True)
    sums_FD = torch.cat((torch.zeros_like(values_FD[:1]), values_FD.cumsum(0)))
    centres_F = torch.arange(num_frames, device=values_FD.device)
    starts_F = (centres_F - _WINDOW_FRAMES // 2).clamp(0, num_frames - _WINDOW_FRAMES)
    return (sums_FD[starts_F + _WINDOW_FRAMES] - sums_FD[starts_F]) / _WINDOW_FRAMES


@cache
def _hann() -> Tensor:
    return torch.hann_window(_LENGTH)


@cache
def _mel_filters() -> Tensor:
    """Triangles (257, 80) spaced evenly on the mel scale 2595 log10(1 + f / 700)."""

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    edges_mel = torch.linspace(mel(_LOWEST_HZ), mel(_HIGHEST_HZ), NUM_MELS + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    bins_hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()

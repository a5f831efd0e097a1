"""The mel spectrogram between the parts: what units become, and what a vocoder makes sound of.

100 frames a second whatever the rate, so that a frame of 12.5, 25 or 50 Hz units is a whole number of them. Levels are
absolute, unlike those of the recogniser's features: a vocoder must know how loud to be. Frame i is centred on the
middle of samples `i * hop .. (i + 1) * hop`; beyond the ends of a clip there is silence.
"""

from dataclasses import asdict, dataclass
from functools import cache

import torch
import torchaudio
from torch import Tensor

FRAME_RATE_HZ = 100
# Windows are four hops long: squared Hann windows then add up to the same everywhere.
WINDOW_HOPS = 4
_TINY = 1e-5


@dataclass(frozen=True)
class MelShape:
    """Sample rate of the audio, and the bands."""

    sample_rate_hz: int = 16_000
    num_bands: int = 80

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return self.sample_rate_hz // FRAME_RATE_HZ

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return WINDOW_HOPS * self.hop

    @property
    def num_bins(self) -> int:
        """Frequencies of a frame's spectrum."""
        return self.window // 2 + 1

    def frames_of(self, frame_rate_hz: float) -> int | None:
        """Mel frames in one frame of units; None where that is no whole number."""
        frames = FRAME_RATE_HZ / frame_rate_hz
        return round(frames) if abs(frames - round(frames)) < 1e-6 else None

    def config(self) -> dict[str, int]:
        """What is saved."""
        return asdict(self)

    def spectrum(self, samples_BT: Tensor) -> Tensor:
        """Magnitudes (B, F, num_bins) of samples (B, T), F = T // hop."""
        num_frames = samples_BT.shape[-1] // self.hop
        beside = (self.window - self.hop) // 2
        padded_BT = torch.nn.functional.pad(samples_BT, (beside, beside))
        frames_BFW = padded_BT.unfold(-1, self.window, self.hop)[:, :num_frames]
        return torch.fft.rfft(frames_BFW * hann(self.window).to(samples_BT.device)).abs()  # type: ignore[no-any-return]

    def log_mel(self, samples_BT: Tensor) -> Tensor:
        """Natural log of the magnitude in each band (B, F, num_bands) of samples (B, T), F = T // hop."""
        return (self.spectrum(samples_BT) @ self.filters().to(samples_BT.device)).clamp(min=_TINY).log()

    def filters(self) -> Tensor:
        """Triangular bands (num_bins, num_bands), each of weight one."""
        return _filters(self.sample_rate_hz, self.num_bins, self.num_bands)

    def spread(self) -> Tensor:
        """(num_bands, num_bins): mel magnitudes -> the smooth spectrum that has about these."""
        filters_NM = self.filters()
        return (filters_NM / filters_NM.sum(1, keepdim=True).clamp(min=1e-8)).T


@cache
def hann(length: int) -> Tensor:
    """A periodic Hann window."""
    return torch.hann_window(length)


@cache
def _filters(sample_rate_hz: int, num_bins: int, num_bands: int) -> Tensor:
    found = torchaudio.functional.melscale_fbanks(
        num_bins, 20.0, sample_rate_hz * 0.4875, num_bands, sample_rate_hz, norm=None, mel_scale="htk"
    )
    # A narrow low band may fall between two frequencies: it takes the nearest one.
    for band in torch.nonzero(found.sum(0) < 1e-6).flatten().tolist():
        nearest = int(found[:, max(band - 1, 0) : band + 2].sum(1).argmax())
        found[nearest, band] = 1.0
    bands_NM: Tensor = found / found.sum(0)
    return bands_NM

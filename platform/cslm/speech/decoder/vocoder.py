"""Mel -> samples: two vocoders behind one interface, told apart by name.

`istft` predicts a spectrum for every frame and leaves the rest to the inverse Fourier transform (Vocos: Siuzdak 2023,
arXiv:2306.00814); it starts from the smooth spectrum that the mel stands for, and learns what is missing and the
phases. `hifigan` is the generator of HiFi-GAN (Kong et al. 2020, arXiv:2010.05646), which climbs to the sample rate by
transposed convolutions. Either gives exactly `hop` samples a frame that depend on `reach` frames to either side.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslm.speech.decoder.blocks import Block, Stretch
from cslm.speech.decoder.mel import WINDOW_HOPS, MelShape, hann

# Squared Hann windows that lie a quarter of their length apart add up to this.
_OVERLAP_SUM = 1.5
_MOST_LOG_MAGNITUDE = 6.0


@dataclass(frozen=True)
class VocoderShape:
    """Which vocoder, and how wide and deep; blocks are those of `istft`."""

    kind: str = "istft"
    width: int = 256
    hidden: int = 768
    num_blocks: int = 5
    kernel: int = 7


class Vocoder(nn.Module):
    """Log mel (B, F, bands), not normalised -> samples (B, F * hop)."""

    reach: int

    def __init__(self, shape: VocoderShape, mel: MelShape) -> None:
        super().__init__()
        self.shape, self.mel = shape, mel

    def config(self) -> dict[str, Any]:
        """What decides the architecture."""
        return asdict(self.shape)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Samples (B, F * hop)."""
        raise NotImplementedError


class InverseStft(Vocoder):
    """Blocks at the mel frame rate, then the inverse short-time Fourier transform."""

    def __init__(self, shape: VocoderShape, mel: MelShape) -> None:
        super().__init__(shape, mel)
        self.enter = Stretch(mel.num_bands, shape.width, 3)
        self.blocks = nn.ModuleList(Block(shape.width, shape.hidden, shape.kernel) for _ in range(shape.num_blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.magnitude = nn.Linear(shape.width, mel.num_bins)
        self.phase = nn.Linear(shape.width, 2 * mel.num_bins)
        nn.init.zeros_(self.magnitude.weight)
        nn.init.zeros_(self.magnitude.bias)
        self._spread_MN: Tensor
        self._window_W: Tensor
        self.register_buffer("_spread_MN", mel.spread(), persistent=False)
        self.register_buffer("_window_W", hann(mel.window).clone(), persistent=False)
        # Frames whose windows cover a sample, and what these hear.
        self.reach = WINDOW_HOPS // 2 + 1 + shape.num_blocks * (shape.kernel // 2)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Samples (B, F * hop)."""
        x_BFC = self.enter((mel_BFM + 5.0) / 2.5)
        for block in self.blocks:
            x_BFC = block(x_BFC)
        x_BFC = self.norm(x_BFC)
        with torch.autocast(mel_BFM.device.type, enabled=False):
            smooth_BFN = (mel_BFM.float().exp() @ self._spread_MN).clamp(min=1e-6).log()
            log_BFN = (smooth_BFN + self.magnitude(x_BFC.float())).clamp(max=_MOST_LOG_MAGNITUDE)
            # An angle as the direction of a vector: no jump where it goes round.
            real_BFN, imaginary_BFN = self.phase(x_BFC.float()).chunk(2, -1)
            length_BFN = (real_BFN**2 + imaginary_BFN**2 + 1e-9).rsqrt()
            size_BFN = log_BFN.exp() * length_BFN
            frames_BFW = torch.fft.irfft(torch.complex(size_BFN * real_BFN, size_BFN * imaginary_BFN), self.mel.window)
            return overlap_add(frames_BFW * self._window_W, self.mel.hop)


class HifiGan(Vocoder):
    """Transposed convolutions up to the sample rate, each followed by residual dilated convolutions."""

    _SLOPE = 0.1

    def __init__(self, shape: VocoderShape, mel: MelShape) -> None:
        super().__init__(shape, mel)
        rates = _factors(mel.hop)
        width = shape.width
        self.enter = nn.Conv1d(mel.num_bands, width, 7, padding=3)
        self.rises, self.residuals = nn.ModuleList(), nn.ModuleList()
        spacing, reach_samples = mel.hop, 3 * mel.hop
        for rate in rates:
            # Kernels of twice the rate, cut to rate samples a frame.
            self.rises.append(
                nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, rate // 2 + rate % 2, output_padding=rate % 2)
            )
            width //= 2
            reach_samples += 2 * spacing
            spacing //= rate
            self.residuals.append(_Residual(width))
            reach_samples += _Residual.REACH * spacing
        self.leave = nn.Conv1d(width, 1, 7, padding=3)
        self.reach = -(-(reach_samples + 3) // mel.hop)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Samples (B, F * hop)."""
        x_BCT = self.enter(((mel_BFM + 5.0) / 2.5).transpose(1, 2))
        for rise, residual in zip(self.rises, self.residuals, strict=True):
            x_BCT = residual(rise(F.leaky_relu(x_BCT, self._SLOPE)))
        return torch.tanh(self.leave(F.leaky_relu(x_BCT, self._SLOPE)))[:, 0].float()


class _Residual(nn.Module):
    """Two kernels, each at three dilations, side by side: the multi-receptive-field fusion of its second size."""

    _KERNELS, _DILATIONS = (3, 7), (1, 3, 5)
    REACH = max(_KERNELS) // 2 * sum(_DILATIONS)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(width, width, kernel, dilation=dilation, padding=kernel // 2 * dilation)
                for dilation in self._DILATIONS
            )
            for kernel in self._KERNELS
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        sums = []
        for path in self.paths:
            y_BCT = x_BCT
            for convolution in path:  # type: ignore[attr-defined]
                y_BCT = y_BCT + convolution(F.leaky_relu(y_BCT, 0.1))
            sums.append(y_BCT)
        return torch.stack(sums).mean(0)


KINDS: dict[str, Callable[[VocoderShape, MelShape], Vocoder]] = {"istft": InverseStft, "hifigan": HifiGan}


def overlap_add(frames_BFW: Tensor, hop: int) -> Tensor:
    """Windowed frames (B, F, 4 * hop), each centred on its hop -> samples (B, F * hop)."""
    num_frames = frames_BFW.shape[1]
    samples_BT = F.fold(
        frames_BFW.transpose(1, 2),
        output_size=(1, (num_frames + WINDOW_HOPS - 1) * hop),
        kernel_size=(1, WINDOW_HOPS * hop),
        stride=(1, hop),
    )[:, 0, 0]
    beside = (WINDOW_HOPS - 1) * hop // 2
    return samples_BT[:, beside : beside + num_frames * hop] / _OVERLAP_SUM


def _factors(hop: int) -> list[int]:
    """The rates of the rises, at most 5 each, the greatest first."""
    rates = []
    for rate in (5, 4, 3, 2):
        while hop % rate == 0:
            rates.append(rate)
            hop //= rate
    if hop > 1:
        raise ValueError(f"the hop of a hifigan vocoder must have no prime factor over 5, found {hop} in it")
    return rates

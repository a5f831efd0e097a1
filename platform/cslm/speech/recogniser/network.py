"""The network of the recogniser: log-mel frames at 100 Hz -> frames at 50 Hz -> characters by CTC.

Convolutions only, so that a frame hears a bounded stretch to either side and long audio can be computed piece by
piece. Clips lie behind each other on one time axis, with silence between them that is as wide as a kernel reaches and
is put back to zero before every convolution: a clip hears nothing of its neighbours, and nothing is padded to the
longest. Connectionist temporal classification: Graves et al. 2006; a second loss in the middle: Lee and Watanabe 2021
(arXiv:2102.03216), which makes the middle layer, whose frames become units, as good at telling sounds apart as it can.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslm.speech.recogniser.features import NUM_MELS

FRAME_RATE_HZ = 50
_STRIDE = 2


@dataclass(frozen=True)
class Shape:
    """How wide and deep a network is. `unit_block`: the block, counted from 1, whose output becomes units."""

    width: int
    hidden: int
    num_blocks: int
    unit_block: int
    kernel: int = 9
    stem_kernel: int = 5


SHAPES: dict[str, Shape] = {
    "small": Shape(width=192, hidden=576, num_blocks=6, unit_block=4),  # 1.6 M parameters, for CPUs
    "base": Shape(width=512, hidden=2048, num_blocks=10, unit_block=7, kernel=15),  # 22 M
    "large": Shape(width=768, hidden=3072, num_blocks=18, unit_block=13, kernel=15),  # 87 M
}


@dataclass(frozen=True)
class Layout:
    """Where clips lie on one time axis: first frame and number of frames of each at 50 Hz, and all frames there are."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int], gap: int) -> "Layout":
        """Clips of so many frames behind each other with `gap` frames between them, and at both ends none."""
        starts, at = [], 0
        for length in lengths:
            starts.append(at)
            at += length + gap
        return cls(tuple(starts), tuple(lengths), max(at - gap, 1))

    def mask(self) -> Tensor | None:
        """1 where a clip is and 0 between them, (total, 1); None where there is one clip and nothing between."""
        if len(self.lengths) == 1:
            return None
        mask_T1 = torch.zeros(self.total, 1)
        for start, length in zip(self.starts, self.lengths, strict=True):
            mask_T1[start : start + length] = 1
        return mask_T1

    def lay(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips (2 * length, 80) of mel frames -> (2 * total, 80), zeros between them."""
        frames_TM = torch.zeros(_STRIDE * self.total, NUM_MELS, device=clips[0].device)
        for start, clip_FM in zip(self.starts, clips, strict=True):
            frames_TM[_STRIDE * start : _STRIDE * start + len(clip_FM)] = clip_FM
        return frames_TM

    def split(self, frames_TD: Tensor) -> list[Tensor]:
        """The frames of each clip."""
        return [frames_TD[start : start + length] for start, length in zip(self.starts, self.lengths, strict=True)]


class Network(nn.Module):
    """Mel frames (2T, 80) of clips behind each other -> middle frames (T, width) and logits (T, num_symbols)."""

    def __init__(self, shape: Shape, num_symbols: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.num_symbols = num_symbols
        width, reach = shape.width, shape.stem_kernel // 2
        self.stem = _Convolution(NUM_MELS, width, shape.stem_kernel, stride=_STRIDE, padding=reach)
        self.stem2 = _Convolution(width, width, shape.stem_kernel, padding=reach)
        self.blocks = nn.ModuleList(_Block(shape, dropout) for _ in range(shape.num_blocks))
        self.unit_norm = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.unit_head = nn.Linear(width, num_symbols)
        self.head = nn.Linear(width, num_symbols)

    @property
    def gap(self) -> int:
        """Frames that must lie between two clips."""
        return max(self.shape.kernel, self.shape.stem_kernel) // 2

    @property
    def reach(self) -> int:
        """Frames at 50 Hz to either side that a frame of the output hears."""
        stem = self.shape.stem_kernel // 2
        return stem + -(-stem // _STRIDE) + self.shape.num_blocks * (self.shape.kernel // 2)

    def config(self) -> dict[str, Any]:
        """What decides the architecture."""
        return asdict(self.shape)

    def settle(self) -> "Network":
        """Arrange the weights for computing without gradients, return self; they must not change any more."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, _Convolution | _Block):
                module.settle()
        return self

    def middle(self, mel_TM: Tensor, mask_T1: Tensor | None) -> Tensor:
        """What the unit block gives, (T, width), before its norm; `mask_T1` (T, 1) is 0 between clips."""
        if mask_T1 is not None:
            mel_TM = mel_TM * mask_T1.repeat_interleave(_STRIDE, 0)
        x_TC = F.gelu(self.stem(mel_TM), approximate="tanh")
        if mask_T1 is not None:
            x_TC = x_TC * mask_T1.to(x_TC.dtype)
        x_TC = F.gelu(self.stem2(x_TC), approximate="tanh")
        for block in self.blocks[: self.shape.unit_block]:
            x_TC = block(x_TC, mask_T1)
        return x_TC

    def unit_frames(self, mel_TM: Tensor, mask_T1: Tensor | None) -> Tensor:
        """The frames that become units, (T, width)."""
        return self.unit_norm(self.middle(mel_TM, mask_T1).float())  # type: ignore[no-any-return]

    def forward(self, mel_TM: Tensor, mask_T1: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of the middle and of the end, (T, num_symbols) each."""
        x_TC = self.middle(mel_TM, mask_T1)
        middle_TV = self.unit_head(self.unit_norm(x_TC))
        for block in self.blocks[self.shape.unit_block :]:
            x_TC = block(x_TC, mask_T1)
        return middle_TV, self.head(self.norm(x_TC))


class _Convolution(nn.Conv1d):
    """A convolution over time, (T, C) -> (T / stride, D)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._flat_DK: Tensor | None
        self.register_buffer("_flat_DK", None, persistent=False)

    def settle(self) -> None:
        self._flat_DK = self.weight.transpose(1, 2).flatten(1)

    def forward(self, x_TC: Tensor) -> Tensor:
        if self._flat_DK is None:
            return super().forward(x_TC.T[None])[0].T.contiguous()
        # As one product of overlapping stretches: on CPUs a third quicker on the length of a sentence.
        (stride,), (kernel,), width = self.stride, self.kernel_size, x_TC.shape[1]
        padded_TC = F.pad(x_TC, (0, 0, kernel // 2, kernel // 2)).contiguous()
        count = (len(padded_TC) - kernel) // stride + 1
        stretches_TK = padded_TC.as_strided((count, kernel * width), (stride * width, 1))
        return F.linear(stretches_TK, self._flat_DK, self.bias)


class _Block(nn.Module):
    """Depthwise convolution over time, norm, two linear layers, all beside a residual path."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(shape.width, 1, 1, shape.kernel))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        self.norm = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)
        self.dropout = nn.Dropout(dropout)
        self._reach = shape.kernel // 2
        self._taps: tuple[Tensor, ...] = ()

    def settle(self) -> None:
        self._taps = self.kernel[:, 0, 0].T.contiguous().unbind()

    def forward(self, x_TC: Tensor, mask_T1: Tensor | None) -> Tensor:
        """(T, C) -> (T, C)."""
        heard_TC = self._heard(x_TC if mask_T1 is None else x_TC * mask_T1)
        gained_TC: Tensor = self.dropout(self.down(F.gelu(self.up(self.norm(heard_TC)), approximate="tanh")))
        return x_TC + gained_TC

    def _heard(self, x_TC: Tensor) -> Tensor:
        if self._taps and x_TC.device.type == "cpu":
            # As a sum of shifted frames: quicker at any length, and without gradients it keeps nothing.
            padded_TC = F.pad(x_TC, (0, 0, self._reach, self._reach))
            sum_TC = padded_TC[: len(x_TC)] * self._taps[0]
            for shift, tap_C in enumerate(self._taps[1:], 1):
                sum_TC.addcmul_(padded_TC[shift : shift + len(x_TC)], tap_C)
            return sum_TC
        # In two dimensions, channels last: on CPUs this form is several times as quick as the one for sequences,
        # and quicker in single than in half precision.
        if torch.is_autocast_enabled(x_TC.device.type):
            with torch.autocast(x_TC.device.type, enabled=False):
                return self._heard(x_TC)
        x_1C1T = x_TC.float().T[None, :, None]
        return F.conv2d(x_1C1T, self.kernel, padding=(0, self._reach), groups=x_TC.shape[1])[0, :, 0].T

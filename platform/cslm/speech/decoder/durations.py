"""How long each merged unit lasts: a small convolutional network over units, told who speaks.

Durations are counts from 1 on, and most are 1. The network gives the logarithm of how many frames beyond the first are
to be expected, trained by the likelihood of a Poisson distribution, whose best guess is the mean. A median would be 1
nearly everywhere, and all speech too quick. Whole frames come of what is expected by carrying what rounding leaves on
to the next unit: a stretch lasts what its units are expected to last together.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cslm.speech.decoder.blocks import Block

LONGEST = 100  # frames: no unit is predicted to last longer
# What training begins from: an eighth of a frame beyond the first.
_FIRST_LOG = -2.0


@dataclass(frozen=True)
class DurationShape:
    """How wide and deep the network is."""

    width: int = 96
    hidden: int = 288
    num_blocks: int = 3
    kernel: int = 7


class DurationPredictor(nn.Module):
    """Units (B, U) -> log of the frames beyond the first that each is expected to last (B, U)."""

    def __init__(self, shape: DurationShape, codebook_size: int, voice_size: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(codebook_size, shape.width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.voice = nn.Linear(voice_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.hidden, shape.kernel) for _ in range(shape.num_blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, _FIRST_LOG)

    def config(self) -> dict[str, Any]:
        """What decides the architecture."""
        return asdict(self.shape)

    @property
    def reach(self) -> int:
        """Units to either side that a duration depends on."""
        return self.shape.num_blocks * (self.shape.kernel // 2)

    def forward(self, units_BU: Tensor, voice_BUV: Tensor, mask_BU1: Tensor | None = None) -> Tensor:
        """Log of the frames beyond the first (B, U) of units in the voices (B, U or 1, V)."""
        x_BUC = self.embedding(units_BU) + self.voice(voice_BUV)
        for block in self.blocks:
            x_BUC = block(x_BUC, mask_BU1)
        log_BU: Tensor = self.head(self.norm(x_BUC)).float()[..., 0]
        return log_BU

    @torch.no_grad()
    def expected(self, units_BU: Tensor, voice_BUV: Tensor) -> Tensor:
        """Frames (B, U) that each unit is expected to last, at least 1 and broken."""
        return 1 + self(units_BU, voice_BUV).exp().clamp(max=LONGEST - 1)  # type: ignore[no-any-return]


def negative_log_likelihood(log_U: Tensor, durations_U: Tensor) -> Tensor:
    """Loss (U,) of the network's output for true durations in frames, but for what does not depend on the output."""
    return log_U.exp() - (durations_U.clamp(min=1) - 1) * log_U


def whole_frames(expected_U: Tensor, carried: float = 0.0) -> tuple[Tensor, float]:
    """Whole frames (U,), at least 1, of expected ones (U,) of at least 1, and what rounding leaves for those behind.

    `carried` is what was left before: the same frames come however units are cut into calls.
    """
    ends_U = carried + expected_U.double().cumsum(0)
    wholes_U = (ends_U + 0.5).floor()
    starts_U = torch.cat((wholes_U.new_zeros(1), wholes_U[:-1]))
    left = float(ends_U[-1] - wholes_U[-1]) if len(ends_U) else carried
    return (wholes_U - starts_U).long(), left

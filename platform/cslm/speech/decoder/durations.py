"""How long each merged unit lasts: a small convolutional network over units, told who speaks.

Durations are counts from 1 on; the network gives their logarithm and is trained by absolute error, so that it gives
the median: the one number that is most often nearest.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cslm.speech.decoder.blocks import Block

LONGEST = 100  # frames: no unit is predicted to last longer


@dataclass(frozen=True)
class DurationShape:
    """How wide and deep the network is."""

    width: int = 96
    hidden: int = 288
    num_blocks: int = 3
    kernel: int = 7


class DurationPredictor(nn.Module):
    """Units (B, U) -> log durations (B, U)."""

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
        nn.init.zeros_(self.head.bias)

    def config(self) -> dict[str, Any]:
        """What decides the architecture."""
        return asdict(self.shape)

    @property
    def reach(self) -> int:
        """Units to either side that a duration depends on."""
        return self.shape.num_blocks * (self.shape.kernel // 2)

    def forward(self, units_BU: Tensor, voice_BUV: Tensor, mask_BU1: Tensor | None = None) -> Tensor:
        """Log durations (B, U) of units in the voices (B, U or 1, V)."""
        x_BUC = self.embedding(units_BU) + self.voice(voice_BUV)
        for block in self.blocks:
            x_BUC = block(x_BUC, mask_BU1)
        log_BU: Tensor = self.head(self.norm(x_BUC)).float()[..., 0]
        return log_BU

    @torch.no_grad()
    def predict(self, units_BU: Tensor, voice_BUV: Tensor) -> Tensor:
        """Durations (B, U) in whole frames, at least 1."""
        return self(units_BU, voice_BUV).exp().round().clamp(1, LONGEST).long()  # type: ignore[no-any-return]

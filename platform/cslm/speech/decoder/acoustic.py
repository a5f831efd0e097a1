"""Units of every frame -> mel: a mean, and what varies around it by conditional flow matching.

All of it works at the units' frame rate, on patches of as many mel frames as a unit's frame has: at 25 Hz a quarter of
the work of a network on mel frames, for as much context. The mean is what a unit in its neighbourhood sounds like in a
voice; the flow (Lipman et al. 2023, arXiv:2210.02747, straight paths) goes from noise to the difference between that
and real speech, which a mean leaves blurred. A voice is known by mean and deviation of its bands, so that one that was
not trained on can be asked for too.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cslm.speech.decoder.blocks import Block, time_features


@dataclass(frozen=True)
class AcousticShape:
    """How wide and deep the networks are."""

    width: int = 256
    hidden: int = 768
    num_blocks: int = 6
    flow_width: int = 256
    flow_hidden: int = 768
    flow_blocks: int = 3
    kernel: int = 7


class Acoustic(nn.Module):
    """Units (B, T) and voices (B, T or 1, V) -> mel patches (B, T, P), P = mel frames of a unit's frame * bands."""

    def __init__(self, shape: AcousticShape, codebook_size: int, voice_size: int, patch: int) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.embedding = nn.Embedding(codebook_size, shape.width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.voice = nn.Linear(voice_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.hidden, shape.kernel) for _ in range(shape.num_blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.mean = nn.Linear(shape.width, patch)
        self.flow = Flow(shape, patch)

    def config(self) -> dict[str, Any]:
        """What decides the architecture."""
        return asdict(self.shape)

    @property
    def reach(self) -> int:
        """Frames to either side that the mean of a frame depends on; a step of the flow hears `flow.reach` more."""
        return self.shape.num_blocks * (self.shape.kernel // 2)

    def forward(self, units_BT: Tensor, voice_BTV: Tensor, mask_BT1: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the flow is told (B, T, width), and the mean mel patches (B, T, P)."""
        x_BTC = self.embedding(units_BT) + self.voice(voice_BTV)
        for block in self.blocks:
            x_BTC = block(x_BTC, mask_BT1)
        known_BTC = self.norm(x_BTC)
        return known_BTC, self.mean(known_BTC).float()


class Flow(nn.Module):
    """Velocity of the difference to the mean at a time between noise (0) and speech (1)."""

    def __init__(self, shape: AcousticShape, patch: int) -> None:
        super().__init__()
        width = shape.flow_width
        self.patch = patch
        self.enter = nn.Linear(patch, width)
        self.known = nn.Linear(shape.width, width)
        self.mean = nn.Linear(patch, width)
        self.time = nn.Linear(width, shape.flow_blocks * width)
        self.blocks = nn.ModuleList(Block(width, shape.flow_hidden, shape.kernel) for _ in range(shape.flow_blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, patch)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.reach = shape.flow_blocks * (shape.kernel // 2)

    def forward(
        self,
        state_BTP: Tensor,
        time_N: Tensor,
        known_BTC: Tensor,
        mean_BTP: Tensor,
        mask_BT1: Tensor | None = None,
        clip_T: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, T, P) at the times (B,); for clips behind each other (B = 1) at those of each frame's clip."""
        x_BTC = self.enter(state_BTP) + self.known(known_BTC) + self.mean(mean_BTP)
        times_ND = self.time(time_features(time_N, x_BTC.shape[2]))
        times_BTD = times_ND[:, None] if clip_T is None else times_ND[clip_T][None]
        for block, beside_BTC in zip(self.blocks, times_BTD.chunk(len(self.blocks), 2), strict=True):
            x_BTC = block(x_BTC, mask_BT1, beside_BTC)
        return self.leave(self.norm(x_BTC)).float()  # type: ignore[no-any-return]

    def difference(self, noise_BTP: Tensor, known_BTC: Tensor, mean_BTP: Tensor, num_steps: int) -> Tensor:
        """Go from noise to a difference (B, T, P) in so many Euler steps."""
        state_BTP = noise_BTP
        for step in range(num_steps):
            time_B = torch.full((len(state_BTP),), step / num_steps, device=state_BTP.device)
            state_BTP = state_BTP + self(state_BTP, time_B, known_BTC, mean_BTP) / num_steps
        return state_BTP

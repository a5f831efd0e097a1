"""What the networks of the decoder are built of: convolutions over time with a bounded reach.

Sequences have the shape (B, T, C). `mask_BT1`, where it is given, is 0 between clips that lie behind each other and 1
where one is; it is applied before every convolution, so that a clip hears nothing of its neighbours.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Depthwise convolution, norm, two linear layers, beside a residual path (ConvNeXt: Liu et al. 2022).

    Whatever conditions it is added before the linear layers.
    """

    def __init__(self, width: int, hidden: int, kernel: int, scale: float = 1.0) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, 1, 1, kernel))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), scale))
        self.reach = kernel // 2

    def forward(self, x_BTC: Tensor, mask_BT1: Tensor | None = None, beside_BTC: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        heard_BTC = self._heard(x_BTC if mask_BT1 is None else x_BTC * mask_BT1)
        if beside_BTC is not None:
            heard_BTC = heard_BTC + beside_BTC
        gained_BTC: Tensor = self.down(F.gelu(self.up(self.norm(heard_BTC)), approximate="tanh"))
        return x_BTC + self.scale * gained_BTC

    def _heard(self, x_BTC: Tensor) -> Tensor:
        # In two dimensions, channels last, in single precision: on CPUs several times as quick as a 1-D convolution.
        with torch.autocast(x_BTC.device.type, enabled=False):
            x_BC1T = x_BTC.float().transpose(1, 2)[:, :, None]
            heard_BC1T = F.conv2d(x_BC1T, self.kernel, padding=(0, self.reach), groups=x_BTC.shape[2])
            return heard_BC1T[:, :, 0].transpose(1, 2)


class Stretch(nn.Module):
    """A dense convolution over neighbouring frames, computed as one matrix product."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs * kernel, outputs)
        self.reach = kernel // 2

    def forward(self, x_BTC: Tensor, mask_BT1: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, D)."""
        if mask_BT1 is not None:
            x_BTC = x_BTC * mask_BT1
        padded_BTC = F.pad(x_BTC, (0, 0, self.reach, self.reach))
        return self.linear(padded_BTC.unfold(1, 2 * self.reach + 1, 1).flatten(2))  # type: ignore[no-any-return]


def time_features(time_B: Tensor, width: int) -> Tensor:
    """Sines and cosines (B, width) of flow times in 0 .. 1."""
    rates_W = torch.exp(torch.arange(width // 2, device=time_B.device) * (-math.log(1000.0) / (width // 2 - 1)))
    phases_BW = 1000.0 * time_B[:, None] * rates_W
    return torch.cat((phases_BW.sin(), phases_BW.cos()), 1)

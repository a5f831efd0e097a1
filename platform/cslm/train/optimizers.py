"""What the small networks of the platform are trained with: their optimizers, and gradients summed over the ranks."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Rates(Protocol):
    """The settings of a training section that optimizers go by."""

    @property
    def optimizer(self) -> str:
        """`muon` or `adamw`."""
        ...

    @property
    def learning_rate(self) -> float:
        """Peak of AdamW."""
        ...

    @property
    def muon_learning_rate(self) -> float:
        """Peak of Muon."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of both."""
        ...


class Optimizers:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest, at one share of their peak rates."""

    def __init__(self, network: nn.Module, section: Rates) -> None:
        matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "blocks." in name]
        matrices = matrices if section.optimizer == "muon" else []
        taken = {id(matrix) for matrix in matrices}
        rest = [parameter for parameter in network.parameters() if id(parameter) not in taken]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest, lr=section.learning_rate, weight_decay=section.weight_decay, betas=(0.9, 0.98), fused=True
            )
        ]
        self._peaks = [section.learning_rate]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=section.muon_learning_rate, weight_decay=section.weight_decay)
            )
            self._peaks.append(section.muon_learning_rate)

    def step(self, scale: float) -> None:
        """Apply the gradients and drop them."""
        for part, peak in zip(self.parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = scale * peak
            part.step()
            part.zero_grad()


def reduce_gradients(network: nn.Module, loss: Tensor) -> float:
    """Sum gradients and loss over the ranks, in one exchange; returns the loss."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    if dist.get_world_size() == 1:
        return float(loss)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.flatten()])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return float(flat[-1])

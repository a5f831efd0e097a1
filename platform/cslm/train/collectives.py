"""A reduce-scatter that is quick over gloo, for ZeRO on CPUs.

Gloo reduces and scatters at a third of the rate at which it exchanges: 8.5 ms against 3.2 ms for 3.5 M values of 16
bits between two ranks of one machine. So every rank is sent the parts that it is to add, and adds them itself, in the
order of the ranks and with 32 bits inside.
"""

from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist


def exchange_and_add(coalesced_collectives: ModuleType) -> None:
    """Make DeepSpeed's module of that name reduce gradients so, in groups of gloo; other groups keep its way."""
    original = coalesced_collectives._torch_reduce_scatter_fn
    if getattr(original, "is_exchange", False):
        return

    def reduce_scatter(
        whole: torch.Tensor, part: torch.Tensor, group: Any = None, async_op: bool = False, prof: bool = False
    ) -> None:
        if dist.get_backend(group) != "gloo" or not part.is_floating_point():
            original(whole, part, group=group, async_op=async_op, prof=prof)
            return
        add_parts(whole, part, group)

    reduce_scatter.is_exchange = True  # type: ignore[attr-defined]
    coalesced_collectives._torch_reduce_scatter_fn = reduce_scatter  # type: ignore[attr-defined]


def add_parts(whole: torch.Tensor, part: torch.Tensor, group: Any = None) -> None:
    """Write into `part` [N] the sum over all ranks of their `whole` [ranks * N] at this rank's place.

    `part` may lie inside `whole`.
    """
    received = torch.empty_like(whole)
    dist.all_to_all_single(received, whole.contiguous(), group=group)
    part.copy_(received.view(dist.get_world_size(group), -1).sum(0))

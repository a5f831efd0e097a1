"""Muon's exchange between ranks under ZeRO-3 in one piece, where DeepSpeed 0.19 makes one for each pair of matrices.

Under ZeRO-3 every rank holds a slice of each matrix, but Muon orthogonalises whole ones. DeepSpeed gathers gradients
and momenta, lets the ranks take matrices in turns, and exchanges results after every turn: a model of 28 matrices waits
28 times a step for the slower rank. Here each rank first works off all of its matrices and results are exchanged once.
Numbers, states and checkpoints are DeepSpeed's own.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

# A parameter, the offset of its slice in the rank's states, and its whole gradient.
Item = tuple[torch.nn.Parameter, int, torch.Tensor]


def exchange_at_once(optimizer: Any, muon_update: Callable[..., torch.Tensor]) -> None:
    """Make a DeepSpeed ZeRO-3 optimizer with Muon exchange its updates once a step.

    `muon_update` is DeepSpeed's: it advances a momentum in place and returns the orthogonalised update. States that
    lie elsewhere than on the device (offload, NVMe) keep DeepSpeed's way.
    """
    optimizer._muon_update_sub_group = partial(_update, optimizer, optimizer._muon_update_sub_group, muon_update)


def _update(
    optimizer: Any,
    original: Callable[..., None],
    muon_update: Callable[..., torch.Tensor],
    index: int,
    items: Sequence[Item],
    dtype: torch.dtype,
) -> None:
    group = optimizer._get_sub_group_process_group(index)
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    swapped = optimizer._swappable_optimizer_subgroup(index) or optimizer.save_muon_momentum_buffer_in_memory
    if world_size == 1 or swapped or not items:
        original(index, items, dtype)
        return
    slices = _momentum_slices(optimizer, index, items)
    momenta = optimizer._partitioned_buffers_all_gather([param for param, _, _ in items], slices, dtype)
    for (param, _, gradient), momentum in list(zip(items, momenta, strict=True))[rank::world_size]:
        update = muon_update(
            gradient,
            momentum,
            beta=optimizer.muon_beta,
            ns_method=optimizer.muon_ns_method,
            num_heads=getattr(param, "muon_num_heads", None),
        )
        gradient.copy_(update)
    results = [[gradient, momentum] for (_, _, gradient), momentum in zip(items, momenta, strict=True)]
    _share([[tensor for pair in results[owner::world_size] for tensor in pair] for owner in range(world_size)], group)
    for kept, momentum in zip(slices, momenta, strict=True):
        size = math.ceil(momentum.numel() / world_size)
        mine = momentum.reshape(-1)[rank * size : (rank + 1) * size]
        kept.zero_()[: mine.numel()].copy_(mine)  # the last rank's slice may reach past the end


def _momentum_slices(optimizer: Any, index: int, items: Sequence[Item]) -> list[torch.Tensor]:
    """The slice of each momentum that this rank holds, a view into the optimizer's state."""
    flat = optimizer.fp32_partitioned_groups_flat[index]
    if "momentum_buffer" not in optimizer.optimizer.state.get(flat, {}):
        optimizer._create_momentum_buffer(optimizer.fp16_partitioned_groups_flat_numel[index], index, flat.ds_id)
    state = optimizer.optimizer.state[flat]["momentum_buffer"]
    return [state.narrow(0, offset, param.partition_numel()) for param, offset, _ in items]  # type: ignore[attr-defined]


def _share(tensors_by_owner: Sequence[Sequence[torch.Tensor]], group: Any) -> None:
    """Give every rank what the owner of each tensor has in it; all are of one type."""
    rank = dist.get_rank(group)
    sizes = [sum(tensor.numel() for tensor in tensors) for tensors in tensors_by_owner]
    example = next(tensor for tensors in tensors_by_owner for tensor in tensors)
    sent = example.new_zeros(max(sizes))
    if sizes[rank]:
        torch.cat([tensor.reshape(-1) for tensor in tensors_by_owner[rank]], out=sent[: sizes[rank]])
    received = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(received, sent, group=group)
    for owner, tensors in enumerate(tensors_by_owner):
        if owner != rank:
            start = 0
            for tensor in tensors:
                end = start + tensor.numel()
                tensor.copy_(received[owner][start:end].view_as(tensor))
                start = end

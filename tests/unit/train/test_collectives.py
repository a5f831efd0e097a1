import torch
import torch.distributed as dist

from cslm.train.collectives import add_parts, gather_parts
from tests.data import ranks


def _parts_are_added(dtype):
    rank, size = dist.get_rank(), dist.get_world_size()
    wholes = [torch.arange(size * 5, dtype=dtype) * (10**other) for other in range(size)]
    expected = sum(wholes).view(size, 5)[rank]
    whole = wholes[rank].clone()
    part = whole.view(size, 5)[rank]  # as DeepSpeed has it: the result's place lies inside the whole
    add_parts(whole, part)
    assert torch.equal(part, expected.to(dtype))
    # In bf16, 256 + 1 + 1 is 256 when added one by one.
    small = torch.full((3,), 256.0 if rank == 0 else 1.0, dtype=torch.bfloat16)
    add_parts(small, small[:1])
    assert small[0].item() == 258.0
    wholes = [torch.arange(size * length, dtype=dtype) + length for length in (1, 4, 7)]
    gathered = gather_parts([one.view(size, -1)[rank] for one in wholes])
    assert all(torch.equal(one, whole) for one, whole in zip(gathered, wholes, strict=True))


def test_every_rank_has_the_sum_of_its_part_taken_with_32_bits_and_the_wholes_of_its_parts():
    ranks.run(3, _parts_are_added, torch.float32)

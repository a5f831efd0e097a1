"""A real engine on two ranks: a step that falls leaves weights, optimizer states and momenta as they were."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from cslm.data.feed import Batch
from tests.data import ranks

# A token whose embedding is infinite: what has it in its row has no finite loss.
POISON = 299
QUICK = ((3, "bf16", "muon"), (1, "bf16", "adamw"))
ALL = tuple(itertools.product((0, 1, 2, 3), ("fp32", "bf16"), ("adamw",)))
ALL += tuple(itertools.product((1, 2, 3), ("fp32", "bf16"), ("muon",)))


def poisoned_model(folder: Path) -> str:
    start = ranks.write_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][POISON] = math.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return start


def batch(step, row, poisoned=False):
    ids = torch.randint(0, POISON, (1, ranks.LENGTH), generator=torch.Generator().manual_seed(100 * step + row))
    if poisoned:
        ids[0, 3] = POISON
    return Batch(ids, torch.arange(ranks.LENGTH)[None], ids.roll(-1, 1), torch.zeros_like(ids))


def step(engine, number, *, poisoned=False, **how):
    """One step of ROWS rows, the first of them poisoned; returns its loss over all ranks and what became of it."""
    total = torch.zeros(2, 1, dtype=torch.float64)
    for row in range(dist.get_rank(), ranks.ROWS, dist.get_world_size()):
        total += engine.accumulate(batch(number, row, poisoned and row == 0), ranks.ROWS * ranks.LENGTH)
    dist.all_reduce(total)
    loss = float(total[0, 0] / total[1, 0])
    return loss, engine.step(1.0, keep=math.isfinite(loss), **how)


def held(engine):
    found = {}
    for part in engine.state.parts:
        with part.resident(write=False):
            found |= {(one.name, one.key, one.start): one.values.clone() for one in part.fragments()}
        found |= {
            ("scalar", *names): torch.tensor(value)
            for names, value in {
                (place.name, key): value for place in part.places for key, value in part.scalars().items()
            }.items()
        }
    return found


def check(start, stage, precision, optimizer):
    plain, guarded = (ranks.engine(start, stage, precision, optimizer) for _ in range(2))
    for number in range(2):
        first, second = step(plain, number), step(guarded, number)
        assert first == second
        assert first[1].applied
        assert 0 < first[1].norm < math.inf
    before = held(guarded)
    loss, fallen = step(guarded, 7, poisoned=True)
    assert not math.isfinite(loss)
    assert not fallen.applied
    assert not math.isfinite(fallen.norm) or fallen.norm > 0
    loss, fallen = step(guarded, 8, norm_limit=1e-6)
    assert math.isfinite(loss)
    assert not fallen.applied
    after = held(guarded)
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert torch.equal(values, after[name]), name
    # What comes next is what would have come without them: no gradient is left over.
    for number in range(2, 4):
        assert step(plain, number) == step(guarded, number)
    undisturbed, disturbed = held(plain), held(guarded)
    for name, values in undisturbed.items():
        assert torch.equal(values, disturbed[name]), name
    whole, other = plain.gather(), guarded.gather()
    if dist.get_rank() == 0:
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def check_all(start, cases):
    for case in cases:
        try:
            check(start, *case)
        except Exception as error:
            raise AssertionError(f"ZeRO stage, precision, optimizer: {case}") from error


def test_a_step_that_falls_leaves_no_trace(tmp_path):
    ranks.run(2, check_all, poisoned_model(tmp_path), QUICK)


@pytest.mark.slow
def test_under_every_stage_precision_and_optimizer(tmp_path):
    ranks.run(2, check_all, poisoned_model(tmp_path), ALL)

"""A real engine on two ranks: a step that falls leaves weights, optimizer states and momenta as they were."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from cslm.data.feed import Batch
from cslm.train import checkpoint
from cslm.train.guard import GuardSection
from cslm.train.loop import TrainSection, train
from cslm.train.progress import Progress
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
    names = {"learning_rate", "embedding_learning_rate"} | ({"muon_learning_rate"} if optimizer == "muon" else set())
    assert plain.rates().keys() == names
    assert plain.rates()["learning_rate"] == 1e-3
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
    whole, other = ranks.gather(plain), ranks.gather(guarded)
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


class Feed:
    """Rows that follow from the step; those of steps 7 and 8 have no finite loss."""

    groups = ("text/en",)
    num_rows = 1000

    def __init__(self, steps):
        self._steps = list(steps)

    def batches(self, number):
        number = self._steps[number]
        rows = range(dist.get_rank(), ranks.ROWS, dist.get_world_size())
        return [batch(number, row, poisoned=number in (7, 8)) for row in rows]

    def rows_of_step(self, number):
        return np.arange(ranks.ROWS) + ranks.ROWS * number


def check_way_back(start, folder, stage, optimizer):
    """Back from two bad steps in a row, with checkpoints on disk and the engine at work."""
    section = TrainSection(
        checkpoint_every_steps=3, log_every_steps=100, guard=GuardSection(roll_back_after=2), max_steps=10
    )
    engine = ranks.engine(start, stage, optimizer=optimizer)
    identity = {"vocabulary": "abc"}
    saver = checkpoint.Saver(folder, engine.state, identity, keep_last=2)
    noted = []

    def roll_back(before):
        saver.wait()
        dist.barrier()
        return checkpoint.restore(folder, engine.state, identity, before=before)

    done = train(
        engine,
        Feed(range(30)),
        section,
        10,
        Progress(),
        report=lambda step, metrics: None,
        checkpoint=saver,
        roll_back=roll_back,
        note=lambda step, reason, rows: noted.append((step, rows)),
    )
    saver.wait()
    assert done.guard.roll_backs == [[6, 9]]
    assert done.guard.skipped == 2
    assert [(step, rows) for step, rows in noted] == [(8, list(range(28, 32))), (9, list(range(32, 36)))]
    other = ranks.engine(start, stage, optimizer=optimizer)
    steps = [*range(6), *range(9, 30)]
    train(other, Feed(steps), section, 10, Progress(), report=lambda *_: None, checkpoint=lambda _: None)
    held_there, held_here = held(other), held(engine)
    for name, values in held_there.items():
        assert torch.equal(values, held_here[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "optimizer"), [(3, "adamw"), (3, "muon"), (2, "adamw"), (0, "adamw")])
def test_going_back_ends_as_if_the_rows_had_not_been(tmp_path, stage, optimizer):
    start = poisoned_model(tmp_path / "start")
    ranks.run(2, check_way_back, start, str(tmp_path / "output"), stage, optimizer)

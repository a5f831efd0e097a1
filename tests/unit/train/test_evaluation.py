import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cslm.data.feed import Batch
from cslm.train.evaluation import EvaluationSection, out_of_patience
from cslm.train.guard import Step
from cslm.train.loop import TrainSection, train
from cslm.train.progress import Progress


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "ends"),
    [
        ([3, 2, 1], 1, 0, False),
        ([3, 2, 2], 1, 0, True),
        ([3, 2, 2.5, 1.9], 2, 0, False),
        ([3, 2, 2.5, 2.1], 2, 0, True),
        ([3, 2.95, 2.91], 2, 0.1, True),
        ([3, 3, 3], None, 0, False),
    ],
)
def test_patience_ends_when_nothing_got_better(losses, patience, min_delta, ends):
    section = EvaluationSection(split="dev", patience=patience, min_delta=min_delta)
    assert out_of_patience([[step, loss] for step, loss in enumerate(losses)], section) is ends


@given(st.lists(st.floats(0, 10), max_size=30), st.integers(1, 5))
def test_falling_losses_never_end_it(losses, patience):
    falling = sorted(set(losses), reverse=True)
    section = EvaluationSection(split="dev", patience=patience)
    assert not out_of_patience([[step, loss] for step, loss in enumerate(falling)], section)


class Engine:
    device = torch.device("cpu")

    def accumulate(self, batch, num_targets):
        return torch.tensor([[2.0], [2.0]], dtype=torch.float64)

    def step(self, rate, *, keep=True, norm_limit=math.inf):
        return Step(1.0)

    def rates(self):
        return {"learning_rate": 1e-3}


class Feed:
    groups = ("asr/en",)
    num_rows = 10

    def batches(self, step):
        ids = torch.full((1, 4), step)
        return [Batch(ids, ids, torch.tensor([[1, 1, -100, -100]]), torch.zeros(1, 4, dtype=torch.long))]


def test_training_stops_early_and_keeps_the_best(process_group):
    held_out = iter([3.0, 2.0, 1.0, 1.5, 1.4, 0.1])
    reported, saved = {}, []
    section = TrainSection(
        log_every_steps=100,
        evaluation=EvaluationSection(split="dev", every_steps=4, patience=2, final_model="best"),
    )
    done = train(
        Engine(),
        Feed(),
        section,
        100,
        Progress(),
        report=lambda step, metrics: reported.update({step: metrics}),
        checkpoint=lambda progress: saved.append(progress.step),
        evaluate=lambda: {"total": next(held_out), "asr/en": 7.0},
    )
    assert done.stopped
    assert done.step == 20
    assert done.best == [12, 1.0]
    assert saved == [4, 8, 12]
    assert [(step, metrics["eval/loss/total"]) for step, metrics in reported.items() if step > 1] == [
        (4, 3.0),
        (8, 2.0),
        (12, 1.0),
        (16, 1.5),
        (20, 1.4),
    ]
    assert reported[20]["loss/total"] == 1  # the last figures are told although it ended early

import math
from itertools import pairwise

import pytest
import torch

from cslm.data.feed import Batch
from cslm.train.loop import Progress, TrainSection, group_losses, metrics_of, rate_scale, train


class CountingEngine:
    """Remembers what the loop asked for; its loss is 1 a target."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls, self.rates = [], []

    def accumulate(self, batch, num_targets):
        self.calls.append((batch.num_targets, num_targets))
        counts = float(batch.num_targets)
        return torch.tensor([[counts, 0.0], [counts, 0.0]], dtype=torch.float64)

    def step(self, rate):
        self.rates.append(rate)
        return 0.5


class TwoBatchFeed:
    groups = ("asr/en", "tts/en")
    num_rows = 10

    def batches(self, step):
        def batch(targets):
            labels = torch.full((1, 6), -100)
            labels[0, :targets] = 1
            return Batch(torch.zeros(1, 6), torch.zeros(1, 6), labels, torch.zeros(1, 6, dtype=torch.long))

        return [batch(1 + step % 3), batch(4)]


def test_gradients_are_normalised_by_the_targets_of_the_whole_step(process_group):
    engine, section = CountingEngine(), TrainSection(log_every_steps=2)
    reports = []
    done = train(
        engine,
        TwoBatchFeed(),
        section,
        5,
        Progress(),
        report=lambda *row: reports.append(row),
        checkpoint=reports.append,
    )
    assert engine.calls[:4] == [(1, 5), (4, 5), (2, 6), (4, 6)]
    assert [step for step, _ in reports] == [1, 2, 4, 5]
    assert all(metrics["loss/asr/en"] == 1 for _, metrics in reports)
    assert done.step == 5
    assert metrics_of(done)["loss_last"] == {"asr/en": 1.0, "total": 1.0}


def test_a_resumed_run_takes_the_steps_that_are_left(process_group):
    engine, saved = CountingEngine(), []
    section = TrainSection(checkpoint_every_steps=2)
    train(
        engine,
        TwoBatchFeed(),
        section,
        6,
        Progress(step=3),
        report=lambda *_: None,
        checkpoint=lambda progress: saved.append(progress.step),
    )
    assert len(engine.rates) == 3
    assert engine.rates == [rate_scale(section, step, 6) for step in (3, 4, 5)]
    assert saved == [4]  # none behind the last step: the model itself is written then


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_follows_its_schedule(schedule):
    section = TrainSection(warmup_fraction=0.1, schedule=schedule)
    rates = [rate_scale(section, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1.0
    falling = all(first >= second for first, second in pairwise(rates[9:]))
    assert falling
    assert rates[-1] == (1.0 if schedule == "constant" else pytest.approx(0, abs=0.02))


def test_losses_of_groups_that_were_not_seen_are_left_out():
    losses = group_losses(torch.tensor([[6.0, 0.0, 2.0], [3.0, 0.0, 1.0]]), ["a", "b", "c"])
    assert losses == {"total": 2.0, "a": 2.0, "c": 2.0}
    assert not any(math.isnan(value) for value in losses.values())

import json
import math
from dataclasses import asdict

import numpy as np
import torch

from cslm.data.feed import Batch
from cslm.train.guard import Step
from cslm.train.loop import TrainSection, schedule_of, train
from cslm.train.progress import Progress, group_losses, metrics_of


class CountingEngine:
    """Remembers what the loop asked for; its loss is 1 a target."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls, self.scales = [], []

    def accumulate(self, batch, num_targets):
        self.calls.append((batch.num_targets, num_targets()))
        counts = float(batch.num_targets)
        return torch.tensor([[counts, 0.0], [counts, 0.0]], dtype=torch.float64)

    def step(self, scale, *, keep=True, norm_limit=math.inf):
        self.scales.append(scale)
        return Step(0.5, keep)

    def rates(self):
        return {"learning_rate": 1e-3}


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
    assert len(engine.scales) == 3
    assert engine.scales == [schedule_of(section, 6).scale(step) for step in (3, 4, 5)]
    assert saved == [4]  # none behind the last step: the model itself is written then


def test_losses_of_groups_that_were_not_seen_are_left_out():
    losses = group_losses(torch.tensor([[6.0, 0.0, 2.0], [3.0, 0.0, 1.0]]), ["a", "b", "c"])
    assert losses == {"total": 2.0, "a": 2.0, "c": 2.0}
    assert not any(math.isnan(value) for value in losses.values())


def test_figures_after_an_interruption_are_those_of_the_undisturbed_run(process_group):
    """The window since the last figures is in the checkpoint: losses are the same to the last bit."""

    class Feed(TwoBatchFeed):
        def rows_of_step(self, step):
            return np.arange(2)

    class Engine(CountingEngine):
        def accumulate(self, batch, num_targets):
            targets = batch.num_targets
            return torch.tensor([[math.sqrt(targets) * 0.1, math.pi / targets], [targets, 1.0]], dtype=torch.float64)

    def run(progress, saved, reports):
        section = TrainSection(log_every_steps=7, checkpoint_every_steps=5)
        train(
            Engine(),
            Feed(),
            section,
            30,
            progress,
            report=lambda step, metrics: reports.append((step, {k: v for k, v in metrics.items() if "loss" in k})),
            checkpoint=lambda one: saved.append(json.dumps(asdict(one))),
        )

    saved, whole = [], []
    run(Progress(), saved, whole)
    assert [step for step, _ in whole] == [1, 7, 14, 21, 28, 30]
    for text in saved:
        progress, after = Progress(**json.loads(text)), []
        run(progress, [], after)
        assert after == whole[-len(after) :]

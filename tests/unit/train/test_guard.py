"""The guard's judgements, and the loop that follows them, with an engine whose losses the test chooses."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cslm.data.feed import Batch
from cslm.train.guard import Guard, GuardSection, Step, TrainingStopped
from cslm.train.loop import TrainSection, train
from cslm.train.progress import GuardState, Progress

ordinary = st.lists(st.floats(1.9, 2.1), min_size=20, max_size=60)


def guard_after(losses, **settings):
    state = GuardState()
    guard = Guard(GuardSection(**settings), state)
    for loss in losses:
        assert guard.judge(loss, Step(loss / 2)) is None
    return guard, state


@given(ordinary)
def test_ordinary_losses_are_no_fault_and_ten_times_them_is(losses):
    guard, state = guard_after(losses)
    fault = guard.judge(20.0, Step(1.0))
    assert fault is not None
    assert not fault.skipped
    assert (state.spikes, state.skipped, state.bad_in_a_row) == (1, 0, 1)
    assert guard.judge(losses[-1], Step(1.0)) is None
    assert state.bad_in_a_row == 0
    assert 20.0 not in state.losses


@given(ordinary)
def test_a_gradient_explodes_by_the_median_of_recent_ones(losses):
    guard, _ = guard_after(losses, exploding_factor=10)
    assert 9 < guard.norm_limit < 11
    fault = guard.judge(2.0, Step(50.0, applied=False))
    assert fault is not None
    assert fault.skipped
    assert "50" in fault.reason


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_learned_from_unless_nothing_is_watched(loss):
    assert not Guard(GuardSection(), GuardState()).may_learn(loss)
    off = Guard(GuardSection(action="off"), GuardState())
    assert off.may_learn(loss)
    assert off.judge(loss, Step(1.0)) is None
    assert math.isinf(off.norm_limit)


def test_a_step_that_took_a_smaller_loss_scale_is_neither_good_nor_bad():
    guard, state = guard_after([2.0] * 20)
    assert guard.judge(2.0, Step(math.inf, applied=False, rescaled=True)) is None
    assert (state.skipped, state.bad_in_a_row, len(state.losses)) == (1, 0, 20)


@given(ordinary, st.integers(20, 30))
def test_what_it_remembers_is_bounded_and_survives_json(losses, window):
    _, state = guard_after(losses, window_steps=window, spike_deviations=None)
    assert state.losses == losses[-window:]
    progress = Progress(**json.loads(json.dumps(asdict(Progress(step=3, guard=state)))))
    assert progress.guard == state


class ChosenEngine:
    """Gives the losses that belong to rows, and counts the steps it learned from."""

    device = torch.device("cpu")

    def __init__(self, losses):
        self._losses, self.learned = losses, []

    def accumulate(self, batch, num_targets):
        self._row = int(batch.input_ids[0, 0])
        return torch.tensor([[self._losses(self._row) * 2], [2.0]], dtype=torch.float64)

    def step(self, rate, *, keep=True, norm_limit=math.inf):
        if keep:
            self.learned.append(self._row)
        return Step(1.0 if keep else math.nan, keep)

    def rates(self):
        return {"learning_rate": 1e-3}


class OneRowFeed:
    """One row a step, numbered as the step."""

    groups = ("asr/en",)
    num_rows = 1000

    def batches(self, step):
        ids = torch.full((1, 4), step)
        return [Batch(ids, ids, torch.tensor([[1, 1, -100, -100]]), torch.zeros(1, 4, dtype=torch.long))]

    def rows_of_step(self, step):
        return np.array([step])


class Kept:
    """Checkpoints as JSON, as the real ones are."""

    def __init__(self):
        self.steps = {}

    def save(self, progress):
        self.steps[progress.step] = json.dumps(asdict(progress))

    def back(self, before):
        self.steps = {step: text for step, text in self.steps.items() if step < before}
        return Progress(**json.loads(self.steps[max(self.steps)])) if self.steps else Progress()


def trained(losses, steps=60, progress=None, kept=None, noted=None, reported=None, **guard):
    engine, kept = ChosenEngine(losses), kept or Kept()
    section = TrainSection(log_every_steps=3, checkpoint_every_steps=5, guard=GuardSection(**guard))
    done = train(
        engine,
        OneRowFeed(),
        section,
        steps,
        progress or Progress(),
        report=lambda step, metrics: None if reported is None else reported.append((step, metrics)),
        checkpoint=kept.save,
        roll_back=kept.back,
        note=lambda step, reason, rows: None if noted is None else noted.append((step, rows)),
    )
    return engine, done


def ordinary_loss(row):
    return 2.0 + math.sin(row) / 10


def spoiled(row):
    return 50.0 if 37 <= row < 42 else ordinary_loss(row)


def test_a_step_without_a_finite_loss_is_passed_over_with_its_rows_named(process_group):
    noted, reported = [], []
    engine, done = trained(lambda row: math.nan if row == 30 else ordinary_loss(row), noted=noted, reported=reported)
    assert engine.learned == [row for row in range(60) if row != 30]
    assert noted == [(31, [30])]
    assert done.guard.skipped == 1
    assert all(math.isfinite(value) for _, metrics in reported for value in metrics.values())


def test_by_config_it_stops_and_names_them(process_group):
    with pytest.raises(TrainingStopped, match=r"step 31: the loss must be finite, found nan; made of rows 30"):
        trained(lambda row: math.nan if row == 30 else ordinary_loss(row), action="stop")


def test_it_goes_back_and_passes_over_the_rows_that_led_there(process_group):
    """Rows 37 to 41 spoil: five leaps in a row, back to the checkpoint before them, on with the row behind them."""
    kept, noted = Kept(), []
    engine, done = trained(spoiled, kept=kept, noted=noted, roll_back_after=5)
    assert done.guard.roll_backs == [[35, 42]]
    assert engine.learned == [*range(42), *range(42, 42 + 25)]
    assert done.step == 60
    assert done.data_step == 67
    assert [step for step, _ in noted] == [38, 39, 40, 41, 42]


def test_killed_on_the_way_back_it_goes_the_same_way(process_group):
    undisturbed, disturbed, kept = [], [], Kept()
    _, whole = trained(spoiled, reported=undisturbed, kept=kept)
    for first in (5, 20, 35):
        resumed = Kept()
        trained(spoiled, steps=60, kept=resumed)
        progress = Progress(**json.loads(resumed.steps[first]))
        resumed.steps = {step: text for step, text in resumed.steps.items() if step <= first}
        disturbed.clear()
        _, done = trained(spoiled, progress=progress, kept=resumed, reported=disturbed)
        assert (done.first, done.last, done.guard) == (whole.first, whole.last, whole.guard)
        losses = [(step, metrics["loss/total"]) for step, metrics in disturbed]
        assert losses == [(s, m["loss/total"]) for s, m in undisturbed][-len(losses) :]


def test_it_stops_when_it_went_back_too_often_or_has_nowhere_to_go(process_group):
    with pytest.raises(TrainingStopped, match="went back 2 times"):
        trained(lambda row: math.inf if row >= 30 else ordinary_loss(row), max_roll_backs=2)
    with pytest.raises(TrainingStopped, match="must be a checkpoint from before step 2"):
        trained(lambda row: math.inf if row >= 1 else ordinary_loss(row))

"""The training loop, straight down: batches, gradients, step, figures, checkpoint. The engine is passed in."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from pydantic import field_validator

from cslm.config import group, setting
from cslm.data.feed import Batch, PackedFeed
from cslm.gang import GangSection
from cslm.train import bad_rows
from cslm.train.compute import ComputeSection
from cslm.train.evaluation import EvaluationSection, out_of_patience
from cslm.train.figures import Meter, StepCounts
from cslm.train.freeze import FreezeSection
from cslm.train.guard import Guard, GuardSection, Step, TrainingStopped
from cslm.train.progress import Progress
from cslm.train.schedule import Kind, Schedule


class TrainSection(GangSection):
    """Steps, batches, learning rate and the workers that train."""

    max_steps: int | None = setting(None, "optimizer steps; follows from `epochs` when not given", ge=1)
    epochs: float = setting(1.0, "passes over the packed rows, when max_steps is not given", gt=0)
    rows_per_step: int = setting(8, "packed rows of one optimizer step, over all workers", unit="rows", ge=1)
    micro_batch_rows: int = setting(4, "rows that one worker computes at a time", unit="rows", ge=1)
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "muon trains the matrices inside the blocks by Muon and the rest by AdamW: quicker from scratch"
    )
    learning_rate: float = setting(6e-5, "peak learning rate of AdamW", gt=0)
    embedding_learning_rate: float | None = setting(
        None, "peak learning rate of the input embeddings; learning_rate when not given", gt=0
    )
    muon_learning_rate: float = setting(0.02, "peak learning rate of Muon", gt=0)
    schedule: Kind = setting(
        "cosine", "how the learning rate goes after warm-up; wsd: it stays, and falls at the end (train.decay_fraction)"
    )
    warmup_fraction: float = setting(0.03, "share of the steps in which the learning rate rises", ge=0, lt=1)
    decay_fraction: float = setting(0.2, "with wsd, share of the steps in which the learning rate falls", gt=0, le=1)
    final_learning_rate_fraction: float = setting(
        0.0, "share of the peak learning rate that is left at the last step", ge=0, le=1
    )
    weight_decay: float = setting(0.0, "AdamW weight decay", ge=0)
    adam_beta2: float = setting(0.95, "AdamW second-moment decay", gt=0, lt=1)
    max_grad_norm: float = setting(1.0, "gradient norm above which the gradient is scaled down", gt=0)
    ema_decay: float | None = setting(
        None,
        "export a running average of the weights instead of the last ones: what of it stays after a step",
        gt=0,
        lt=1,
    )
    seed: int = setting(0, "seed of data order and initial weights", ge=0)
    num_workers: int | str = setting(
        2, "training workers (one GPU or one CPU core each): a number, or a range such as 1..4 that follows the cluster"
    )
    resize_every_s: float = setting(
        60.0, "with a range of workers, how often more of them are looked for", unit="s", ge=0
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "where to train; auto takes GPUs where the cluster has any or may start some"
    )
    log_every_steps: int = setting(10, "steps between two lines of figures", unit="steps", ge=1)
    checkpoint_every_steps: int = setting(500, "steps between two checkpoints", unit="steps", ge=1)
    keep_checkpoints: int = setting(2, "newest complete checkpoints that are kept beside one being written", ge=1)
    keep_best: int = setting(0, "checkpoints with the least held-out loss that are kept beside the newest", ge=0)
    freeze: FreezeSection = group(FreezeSection, "what is not trained at first")
    compute: ComputeSection = group(ComputeSection, "memory against time in forward and backward")
    guard: GuardSection = group(GuardSection, "what is done about losses and gradients that would harm the model")
    evaluation: EvaluationSection = group(EvaluationSection, "loss on a held-out split, early stopping")
    max_failures: int = setting(3, "worker failures after which the job gives up", ge=0)

    @field_validator("num_workers")
    @classmethod
    def _a_number_or_a_range(cls, value: int | str) -> int | str:
        least, most = workers(value)
        if not 1 <= least <= most:
            raise ValueError("must be a number of workers from 1 on, or a range such as 1..4")
        return value


def workers(value: int | str) -> tuple[int, int]:
    """The fewest and the most workers that `train.num_workers` allows. Raises ValueError for anything else."""
    parts = str(value).split("..")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError("must be a number of workers, or a range such as 1..4")
    return int(parts[0]), int(parts[-1])


class Engine(Protocol):
    """What the loop needs of an engine."""

    device: torch.device

    def accumulate(self, batch: Batch, num_targets: Callable[[], int]) -> torch.Tensor:
        """Gradient of one micro batch; returns sums and counts for each group."""

    def step(self, scale: float, *, keep: bool = True, norm_limit: float = math.inf) -> Step:
        """Apply the gradient at `scale` times the peak learning rates, or let it fall: see `ZeroEngine.step`."""

    def rates(self) -> dict[str, float]:
        """The learning rates of the last step, by name."""


def schedule_of(section: TrainSection, num_steps: int) -> Schedule:
    """How the learning rate goes over `num_steps`."""
    return Schedule(
        section.schedule,
        num_steps,
        section.warmup_fraction,
        section.decay_fraction,
        section.final_learning_rate_fraction,
    )


def train(
    engine: Engine,
    feed: PackedFeed,
    section: TrainSection,
    num_steps: int,
    progress: Progress,
    *,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[Progress], None],
    leaving: Callable[[], bool] = lambda: False,
    roll_back: Callable[[int], Progress] | None = None,
    note: Callable[[int, str, list[int]], None] = lambda step, reason, rows: None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    meter: Meter | None = None,
) -> Progress:
    """Train from `progress.step` to `num_steps`.

    `report(step, metrics)` is called on every rank after each logging interval with figures over all ranks,
    `checkpoint(progress)` on every rank at its interval and never behind the last step. Where `leaving()` says on any
    rank that it may soon be gone, all of them save behind the same step. `note(step, reason, rows)` is told of bad
    steps; `roll_back(step)` brings the engine to a checkpoint before `step` and returns its progress; `evaluate()`
    gives held-out losses. Raises TrainingStopped where `section.guard` has it.
    """
    schedule, meter = schedule_of(section, num_steps), meter or Meter(engine.device)
    guard = Guard(section.guard, progress.guard)
    owes_checkpoint = False
    while progress.step < num_steps and not progress.stopped:
        asked_s = time.perf_counter()
        batches = feed.batches(progress.data_step)
        counting = meter.count(batches, time.perf_counter() - asked_s, leaving())

        batch_sums = [engine.accumulate(batch, partial(_divisor, counting)) for batch in batches]
        counts = counting()
        sums = torch.stack(batch_sums).sum(0)
        dist.all_reduce(sums)
        totals: list[list[float]] = sums.tolist()
        loss = math.fsum(totals[0]) / max(math.fsum(totals[1]), 1)

        scale = schedule.scale(progress.step)
        step = engine.step(scale, keep=guard.may_learn(loss), norm_limit=guard.norm_limit)
        fault = guard.judge(loss, step)
        if fault is not None:
            rows = bad_rows.find(feed, progress.data_step, batches, batch_sums)
            note(progress.step + 1, fault.reason, rows)
            if fault.skipped and section.guard.action == "stop":
                raise TrainingStopped(_stopped(progress.step + 1, fault.reason, rows))
        if guard.lost:
            progress = go_back(progress, section.guard, roll_back, fault.reason if fault else "")
            guard = Guard(section.guard, progress.guard)
            continue
        progress.step += 1
        progress.tokens += counts.tokens
        if math.isfinite(loss):
            progress.add(totals)

        last = progress.step == num_steps
        metrics: dict[str, float] = {}
        is_best = False
        if evaluate is not None and (last or progress.step % section.evaluation.every_steps == 0):
            started_s = time.perf_counter()
            held_out = evaluate()
            metrics |= {f"eval/loss/{name}": value for name, value in held_out.items()}
            progress.evaluations.append([progress.step, held_out["total"]])
            is_best = progress.best == progress.evaluations[-1]
            last = last or out_of_patience(progress.evaluations, section.evaluation)
            progress.stopped = last and progress.step < num_steps
            meter.leave_out(time.perf_counter() - started_s)
        if last or progress.step == 1 or progress.step % section.log_every_steps == 0:
            metrics |= {f"loss/{name}": value for name, value in progress.take_losses(feed.groups).items()}
            metrics |= {f"optimizer/{name}": rate for name, rate in engine.rates().items()}
            metrics["optimizer/grad_norm"] = step.norm
            metrics |= meter.take(progress)
            metrics["progress/epoch"] = progress.data_step * section.rows_per_step / feed.num_rows
            metrics |= {"guard/skipped_steps": progress.guard.skipped, "guard/loss_spikes": progress.guard.spikes}
            metrics["guard/roll_backs"] = len(progress.guard.roll_backs)
        if metrics:
            report(progress.step, {name: value for name, value in metrics.items() if math.isfinite(value)})
        owes_checkpoint = owes_checkpoint or progress.step % section.checkpoint_every_steps == 0
        # What may have to be taken back is not kept, unless it is the last that can be.
        good = progress.guard.bad_in_a_row == 0
        wanted = is_best and section.evaluation.final_model == "best"
        if not last and (counts.leaving or wanted or (owes_checkpoint and good)):
            checkpoint(progress)
            owes_checkpoint = False
    return progress


def _divisor(counting: Callable[[], StepCounts]) -> int:
    """What the summed loss of a step is divided by; a step may have no target at all."""
    return max(counting().targets, 1)


def go_back(
    progress: Progress, section: GuardSection, roll_back: Callable[[int], Progress] | None, reason: str
) -> Progress:
    """Bring training back to the last checkpoint before the bad steps; their rows will not come again.

    It follows from the steps alone: killed and started again it goes the same way. Raises TrainingStopped where there
    is no such checkpoint, or training went back too often.
    """
    state = progress.guard
    first_bad = progress.step + 1 - state.bad_in_a_row
    told = f"step {progress.step + 1}: {state.bad_in_a_row} bad steps in a row; the last: {reason}"
    if len(state.roll_backs) >= section.max_roll_backs:
        raise TrainingStopped(
            f"{told}. Training went back {len(state.roll_backs)} times (train.guard.max_roll_backs); see the rows in "
            f"{bad_rows.FILE}, or lower the learning rate"
        )
    restored = roll_back(first_bad + 1) if roll_back is not None else Progress()
    if restored.step == 0:
        raise TrainingStopped(
            f"{told}. There must be a checkpoint from before step {first_bad + 1} to go back to, found none; see the "
            f"rows in {bad_rows.FILE}, or save more often (train.checkpoint_every_steps)"
        )
    restored.guard.skipped, restored.guard.spikes = state.skipped, state.spikes
    restored.guard.roll_backs = [*state.roll_backs, [restored.step, progress.step + 1]]
    restored.guard.passed_over = progress.data_step + 1 - restored.step
    return restored


def _stopped(step: int, reason: str, rows: list[int]) -> str:
    told = ", ".join(map(str, rows[:8])) + (" ..." if len(rows) > 8 else "")
    return (
        f"step {step}: {reason}; made of rows {told} of the packed table, which {bad_rows.FILE} names. Take them out, "
        "or pass over such steps with train.guard.action skip"
    )

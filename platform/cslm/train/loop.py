"""The training loop, straight down: batches, gradients, step, figures, checkpoint. The engine is passed in."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from pydantic import field_validator

from cslm.config import Section, group, setting
from cslm.data.feed import Batch, PackedFeed
from cslm.train.compute import ComputeSection
from cslm.train.freeze import FreezeSection


class TrainSection(Section):
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
    schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "how the learning rate falls after warm-up")
    warmup_fraction: float = setting(0.03, "share of the steps in which the learning rate rises", ge=0, lt=1)
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
        "auto", "where to train; auto takes GPUs where the cluster has any"
    )
    log_every_steps: int = setting(10, "steps between two lines of figures", unit="steps", ge=1)
    checkpoint_every_steps: int = setting(500, "steps between two checkpoints", unit="steps", ge=1)
    keep_checkpoints: int = setting(2, "newest complete checkpoints that are kept beside one being written", ge=1)
    keep_best: int = setting(0, "checkpoints with the least held-out loss that are kept beside the newest", ge=0)
    freeze: FreezeSection = group(FreezeSection, "what is not trained at first")
    compute: ComputeSection = group(ComputeSection, "memory against time in forward and backward")
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

    def accumulate(self, batch: Batch, num_targets: int) -> torch.Tensor:
        """Gradient of one micro batch; returns sums and counts for each group."""

    def step(self, scale: float) -> float:
        """Apply the gradient at `scale` times the peak learning rates; returns its norm."""


@dataclass
class Progress:
    """Where training stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    train_s: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)


def rate_scale(section: TrainSection, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0: linear warm-up, then the schedule down to zero."""
    warmup = warmup_steps(section, num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if section.schedule == "constant":
        return 1.0
    if section.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done))


def warmup_steps(section: TrainSection, num_steps: int) -> int:
    """Steps in which the learning rate rises."""
    return max(1, round(section.warmup_fraction * num_steps))


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
) -> Progress:
    """Train from `progress.step` to `num_steps`.

    `report(step, metrics)` is called on every rank after each logging interval with figures over all ranks,
    `checkpoint(progress)` on every rank at its interval and never behind the last step. Where `leaving()` says on any
    rank that it may soon be gone, all of them save behind the same step.
    """
    window = torch.zeros(2, len(feed.groups), dtype=torch.float64, device=engine.device)
    window_tokens, window_wait_s, window_start_s, window_steps = 0, 0.0, time.perf_counter(), 0
    while progress.step < num_steps:
        asked_s = time.perf_counter()
        batches = feed.batches(progress.step)
        counts = torch.tensor([sum(b.num_targets for b in batches), sum(b.num_tokens for b in batches), leaving()])
        counts = counts.to(engine.device)
        window_wait_s += time.perf_counter() - asked_s
        dist.all_reduce(counts)
        num_targets, num_tokens = max(int(counts[0]), 1), int(counts[1])
        for batch in batches:
            window += engine.accumulate(batch, num_targets)
        scale = rate_scale(section, progress.step, num_steps)
        norm = engine.step(scale)
        progress.step += 1
        progress.tokens += num_tokens
        window_tokens += num_tokens
        window_steps += 1
        last = progress.step == num_steps
        if last or progress.step == 1 or progress.step % section.log_every_steps == 0:
            dist.all_reduce(window)
            elapsed_s = time.perf_counter() - window_start_s
            losses = group_losses(window, feed.groups)
            progress.first = {**losses, **progress.first}
            progress.last.update(losses)
            progress.train_s += elapsed_s
            metrics = {f"loss/{name}": value for name, value in losses.items()}
            metrics["optimizer/learning_rate"] = section.learning_rate * scale
            metrics["optimizer/grad_norm"] = norm
            metrics["throughput/tokens_per_s"] = window_tokens / elapsed_s
            metrics["time/data_wait_fraction"] = window_wait_s / elapsed_s
            metrics["time/step_s"] = elapsed_s / window_steps
            metrics["progress/epoch"] = progress.step * section.rows_per_step / feed.num_rows
            report(progress.step, metrics)
            window.zero_()
            window_tokens, window_wait_s, window_start_s, window_steps = 0, 0.0, time.perf_counter(), 0
        if not last and (int(counts[2]) or progress.step % section.checkpoint_every_steps == 0):
            checkpoint(progress)
    return progress


def group_losses(sums: torch.Tensor, groups: list[str]) -> dict[str, float]:
    """[2, num_groups] sums and counts -> mean loss a target for `total` and for each group that was seen."""
    totals, counts = sums.cpu().tolist()
    losses = {"total": sum(totals) / max(sum(counts), 1)}
    return losses | {name: total / count for name, total, count in zip(groups, totals, counts, strict=True) if count}


def metrics_of(progress: Progress) -> dict[str, Any]:
    """What a finished training tells in its summary."""
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "train_s": round(progress.train_s, 1),
        "throughput": {"tokens_per_s": round(progress.tokens / max(progress.train_s, 1e-9), 1)},
        "loss_first": {name: round(value, 4) for name, value in sorted(progress.first.items())},
        "loss_last": {name: round(value, 4) for name, value in sorted(progress.last.items())},
    }

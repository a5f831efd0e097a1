"""Where a training stands: all state of the loop that must survive, in plain JSON values.

It is saved with every checkpoint. Python writes a float's shortest decimal that reads back as the same float, so what
was counted before an interruption goes on to the last bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class GuardState:
    """What the guard remembers: recent good steps, the bad ones since, and what was passed over."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    bad_in_a_row: int = 0
    skipped: int = 0
    spikes: int = 0
    # Steps whose rows lie behind us although their number comes again: rows of step n are those of n + passed_over.
    passed_over: int = 0
    # [step gone back to, step gone back from] of each time.
    roll_backs: list[list[int]] = field(default_factory=list)


@dataclass
class Progress:
    """Where training stands.

    `window` holds sums of losses and counts of targets of each group since the last figures; `evaluations` step and
    held-out loss of each evaluation; `stopped` whether these ended the training early.
    """

    step: int = 0
    tokens: int = 0
    train_s: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    window: list[list[float]] = field(default_factory=list)
    evaluations: list[list[float]] = field(default_factory=list)
    stopped: bool = False
    work: dict[str, float] = field(default_factory=dict)
    guard: GuardState = field(default_factory=GuardState)

    def __post_init__(self) -> None:
        if isinstance(self.guard, dict):
            self.guard = GuardState(**self.guard)

    @property
    def data_step(self) -> int:
        """The step whose rows come next."""
        return self.step + self.guard.passed_over

    @property
    def best(self) -> list[float] | None:
        """Step and loss of the best evaluation, the first of equal ones."""
        return min(self.evaluations, key=lambda one: one[1], default=None)

    def add(self, sums: Sequence[Sequence[float]]) -> None:
        """Count a step's sums of losses and targets, [2, num_groups] over all ranks."""
        if not self.window:
            self.window = [[0.0] * len(row) for row in sums]
        self.window = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(self.window, sums, strict=True)]

    def take_losses(self, groups: Sequence[str]) -> dict[str, float]:
        """Mean losses a target since the last call, for `total` and the groups that were seen."""
        losses = group_losses(self.window, groups) if self.window else {}
        self.window = []
        self.first = {**losses, **self.first}
        self.last.update(losses)
        return losses


def group_losses(sums: torch.Tensor | Sequence[Sequence[float]], groups: Sequence[str]) -> dict[str, float]:
    """[2, num_groups] sums and counts -> mean loss a target for `total` and for each group that was seen."""
    totals, counts = sums.cpu().tolist() if isinstance(sums, torch.Tensor) else sums
    losses = {"total": math.fsum(totals) / max(math.fsum(counts), 1)}
    return losses | {name: total / count for name, total, count in zip(groups, totals, counts, strict=True) if count}


def metrics_of(progress: Progress) -> dict[str, Any]:
    """What a finished training tells in its summary."""
    told: dict[str, Any] = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "train_s": round(progress.train_s, 1),
        "throughput": {"tokens_per_s": round(progress.tokens / max(progress.train_s, 1e-9), 1)},
        "loss_first": {name: round(value, 4) for name, value in sorted(progress.first.items())},
        "loss_last": {name: round(value, 4) for name, value in sorted(progress.last.items())},
        "skipped_steps": progress.guard.skipped,
        "loss_spikes": progress.guard.spikes,
        "roll_backs": progress.guard.roll_backs,
        "data_wait_fraction": round(progress.work.get("wait_s", 0.0) / max(progress.train_s, 1e-9), 5),
        "packing_efficiency": round(progress.tokens / max(progress.work.get("places", 0.0), 1), 4),
    }
    if progress.work.get("peak"):
        told["mfu"] = round(progress.work["flops"] / progress.work["peak"], 4)
    if progress.best is not None:
        told["best_evaluation"] = {"step": int(progress.best[0]), "loss": round(progress.best[1], 4)}
        told["stopped_early"] = progress.stopped
        told["evaluations"] = [[int(step), loss] for step, loss in progress.evaluations]
    return told

"""The loss on rows that are not trained on, and when it says that training is done.

The rows are those that training would see of the held-out split, packed the same way; only the forward is computed, so
an evaluation changes nothing of the training.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.distributed as dist

from cslm.config import Section, setting
from cslm.data.feed import Batch, PackedFeed
from cslm.train.progress import group_losses


class EvaluationSection(Section):
    """The loss on the held-out split, and what follows from it."""

    split: str | None = setting(None, "split that is held out, such as dev; null: no evaluation")
    every_steps: int = setting(500, "steps between two evaluations; the last step has one as well", unit="steps", ge=1)
    max_rows: int = setting(256, "packed rows of an evaluation, drawn once", unit="rows", ge=1)
    patience: int | None = setting(
        None, "evaluations without a better loss after which training stops; null: never", unit="evaluations", ge=1
    )
    min_delta: float = setting(0.0, "how much less the loss must be to count as better", ge=0)
    final_model: Literal["last", "best"] = setting(
        "last", "which weights become the model: those of the last step, or of the step with the least held-out loss"
    )


class Engine(Protocol):
    """What an evaluation needs of an engine."""

    device: torch.device

    def evaluate(self, batch: Batch, num_groups: int) -> torch.Tensor:
        """Sums and counts for each group, [2, num_groups]."""


class Evaluation:
    """Gives the mean losses over all ranks of the rows that `feed` has in its first step; all ranks must call."""

    def __init__(self, engine: Engine, feed: PackedFeed) -> None:
        self._engine, self._groups = engine, feed.groups
        self._batches = [batch.located() if engine.device.type == "cpu" else batch for batch in feed.batches(0)]
        feed.close()

    def __call__(self) -> dict[str, float]:
        """Loss a target for `total` and each group."""
        sums = torch.zeros(2, len(self._groups), dtype=torch.float64, device=self._engine.device)
        for batch in self._batches:
            sums += self._engine.evaluate(batch, len(self._groups))
        dist.all_reduce(sums)
        return group_losses(sums, self._groups)


def out_of_patience(evaluations: Sequence[Sequence[float]], section: EvaluationSection) -> bool:
    """Whether the last evaluations, each step and loss, all were no better than one before by `min_delta`."""
    if section.patience is None:
        return False
    best, since = float("inf"), 0
    for _, loss in evaluations:
        if loss < best - section.min_delta:
            best, since = loss, 0
        else:
            since += 1
    return since >= section.patience

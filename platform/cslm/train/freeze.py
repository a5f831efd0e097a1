"""Training only some of the weights at first: the rows of the new units, then everything.

What is frozen keeps its place in the optimizer, so that sharding and checkpoints stay as they are; its gradient is
zero instead, and weight decay waits. Adam then leaves it as it is, to the last bit, and its moments at zero.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from cslm.config import Section, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FreezeSection(Section):
    """What is not trained at first."""

    until_step: int = setting(0, "step from which everything is trained", unit="steps", ge=0)
    parts: Literal["old", "body"] = setting(
        "old", "what is frozen before: old, all but the rows of units and marks; body, all but embeddings and head"
    )


class Freezer:
    """Zero gradients for what is frozen at a step; a function of the step alone, so that a resumed run has it too."""

    def __init__(self, lm: "PreTrainedModel", section: FreezeSection, new_rows: range) -> None:
        self._until_step = section.until_step
        self._step = 0
        if not section.until_step:
            return
        kept = {id(module.weight) for module in (lm.get_input_embeddings(), lm.get_output_embeddings())}
        for parameter in lm.parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) not in kept:
                parameter.register_hook(self._hook(range(0)))
            elif section.parts == "old":
                parameter.register_hook(self._hook(new_rows))

    def begin_step(self, step: int) -> bool:
        """Say which step, counted from 0, gradients are for; returns whether something is frozen in it."""
        self._step = step
        return step < self._until_step

    def _hook(self, rows: range) -> Callable[[torch.Tensor], torch.Tensor | None]:
        def masked(gradient: torch.Tensor) -> torch.Tensor | None:
            if self._step >= self._until_step:
                return None
            left = torch.zeros_like(gradient)
            if rows:
                left[rows.start : rows.stop] = gradient[rows.start : rows.stop]
            return left

        return masked

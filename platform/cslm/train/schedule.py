"""How the learning rate goes over a training: a pure function of the step, so that a resumed run needs no state."""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "linear", "constant", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the peak, then by `kind` down to `final_fraction` of the peak at the last of `num_steps`.

    `wsd` (warm-up, stable, decay; Hu et al. 2024, MiniCPM) stays at the peak and falls in a straight line over the
    last `decay_fraction` of the steps: how long a training is to be need not be known until then. `constant` never
    falls.
    """

    kind: Kind
    num_steps: int
    warmup_fraction: float = 0.0
    decay_fraction: float = 0.2
    final_fraction: float = 0.0

    @property
    def warmup_steps(self) -> int:
        """Steps in which the rate rises."""
        return max(1, round(self.warmup_fraction * self.num_steps))

    def scale(self, step: int) -> float:
        """Share of the peak rate at a step counted from 0."""
        warmup = self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        begun = warmup
        if self.kind == "wsd":
            begun = max(warmup, self.num_steps - max(1, round(self.decay_fraction * self.num_steps)))
        if self.kind == "constant" or step < begun:
            return 1.0
        done = (step - begun) / max(1, self.num_steps - begun)
        falling = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        return self.final_fraction + (1 - self.final_fraction) * falling

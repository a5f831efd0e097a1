"""What is done about steps that would harm: losses that are not finite, exploding gradients, losses that leap.

All decisions follow from losses and norms that are the same on every rank and from what `GuardState` keeps of recent
steps, so they come out the same after an interruption.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cslm.config import Section, setting
from cslm.errors import CslmError
from cslm.train.progress import GuardState

# Steps that must be known before a loss or a norm can be unusual.
_LEAST_KNOWN = 20
# A normal distribution's standard deviation, in medians of absolute deviations.
_DEVIATION = 1.4826
# Losses that hardly differ from each other make no spike of a small step upwards: share of the median.
_LEAST_DEVIATION = 0.01


class GuardSection(Section):
    """What is done about losses and gradients that would harm the model."""

    action: Literal["skip", "stop", "off"] = setting(
        "skip",
        "when loss or gradient is not finite or the gradient explodes: skip leaves weights and optimizer as they are, "
        "stop ends the run; both name the rows. off: nothing is watched",
    )
    exploding_factor: float | None = setting(
        100.0, "a gradient explodes at so many times the median norm of recent steps; null: never", gt=1
    )
    spike_deviations: float | None = setting(
        10.0, "a loss leaps at so many robust standard deviations above the median of recent steps; null: never", gt=0
    )
    window_steps: int = setting(100, "recent good steps that loss and norm are held against", unit="steps", ge=20)
    roll_back_after: int | None = setting(
        5,
        "bad steps in a row, skipped or with a leaping loss, after which training goes back to the last good "
        "checkpoint and passes over the rows since; null: never",
        unit="steps",
        ge=1,
    )
    max_roll_backs: int = setting(3, "times that training may go back before it stops", ge=0)


class TrainingStopped(CslmError):
    """Training ended because of its losses or gradients; starting it again would end the same."""


@dataclass(frozen=True)
class Step:
    """What an engine did: the gradient's norm before clipping, and whether weights and optimizer took the step.

    `rescaled`: it was fp16's loss scaling that left the step out, to take a smaller scale.
    """

    norm: float
    applied: bool = True
    rescaled: bool = False


@dataclass(frozen=True)
class Fault:
    """Why a step is bad."""

    reason: str
    skipped: bool


class Guard:
    """Judges every step by the recent good ones."""

    def __init__(self, section: GuardSection, state: GuardState) -> None:
        self._section, self._state = section, state
        self._on = section.action != "off"

    def may_learn(self, loss: float) -> bool:
        """Whether the gradient of a step with this mean loss may be applied."""
        return not self._on or math.isfinite(loss)

    @property
    def norm_limit(self) -> float:
        """The gradient norm from which on a step is not applied; infinite gradients never are."""
        factor, norms = self._section.exploding_factor, self._state.norms
        if not self._on or factor is None or len(norms) < _LEAST_KNOWN:
            return math.inf
        return factor * median(norms)

    @property
    def loss_limit(self) -> float:
        """The mean loss of a step above which it leaps."""
        deviations, losses = self._section.spike_deviations, self._state.losses
        if not self._on or deviations is None or len(losses) < _LEAST_KNOWN:
            return math.inf
        middle = median(losses)
        spread = median(abs(loss - middle) for loss in losses)
        return middle + deviations * max(_DEVIATION * spread, _LEAST_DEVIATION * abs(middle))

    def judge(self, loss: float, step: Step) -> Fault | None:
        """Say what is wrong with a step, and remember it."""
        state, fault = self._state, self._fault(loss, step)
        state.skipped += not step.applied
        state.spikes += fault is not None and not fault.skipped
        if not self._on or (step.rescaled and fault is None):
            return None
        if fault is not None:
            state.bad_in_a_row += 1
            return fault
        state.bad_in_a_row = 0
        state.losses = [*state.losses, loss][-self._section.window_steps :]
        state.norms = [*state.norms, step.norm][-self._section.window_steps :]
        return None

    @property
    def lost(self) -> bool:
        """Whether so many steps in a row were bad that training must go back."""
        after = self._section.roll_back_after
        return self._on and after is not None and self._state.bad_in_a_row >= after

    def _fault(self, loss: float, step: Step) -> Fault | None:
        if not math.isfinite(loss):
            return Fault(f"the loss must be finite, found {loss}", not step.applied)
        if not step.applied and not step.rescaled:
            return Fault(
                f"the gradient's norm must be finite and below {self.norm_limit:.4g}, found {step.norm:.4g}", True
            )
        if loss > self.loss_limit:
            return Fault(f"the loss should be below {self.loss_limit:.4g} by the steps before, found {loss:.4g}", False)
        return None

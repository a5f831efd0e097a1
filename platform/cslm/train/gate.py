"""Lets a step of a DeepSpeed engine fall before weights, optimizer states or Muon's momentum are touched.

DeepSpeed does this for what it finds itself, and not everywhere: in bf16 under ZeRO 1 and 2 it steps on gradients that
are not finite, and under ZeRO 3 it finds them when they are in Muon's momentum already. Here the norm is taken before
the optimizer's step, once, and a step that is not wanted takes DeepSpeed's own way of a step that overflowed. DeepSpeed
is not imported: its optimizers are told apart by what they carry.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cslm.train.guard import Step


class Gate:
    """Stands before the optimizer of a DeepSpeed engine; `result` tells what became of its last step.

    The norm is that of the gradient over all ranks before clipping. With Muon under ZeRO 1 and 2 it is that of the
    update, into which DeepSpeed turns gradients while it gathers them.
    """

    def __init__(self, engine: Any) -> None:
        self._engine, self._optimizer = engine, engine.optimizer
        self._step = self._optimizer.step
        self._optimizer.step = self._gated
        self._keep, self._norm_limit = True, math.inf
        # Without ZeRO in fp32 the engine clips gradients itself, before the optimizer's step.
        self._clip = engine.clip_fp32_gradients
        self._norm_before_clipping: float | None = None
        engine.clip_fp32_gradients = self._clip_measured
        self.result = Step(0.0)

    def set(self, *, keep: bool, norm_limit: float) -> None:
        """Say before a step whether it is wanted, and up to which norm."""
        self._keep, self._norm_limit = keep, norm_limit

    def _gated(self, *arguments: Any, **named: Any) -> Any:
        optimizer = self._optimizer
        norm, given = self._norm()
        finite = math.isfinite(norm)
        # fp16 finds its scale by gradients that overflow.
        rescaled = not finite and self._keep and _scales(optimizer)
        wanted = self._keep and (rescaled or (finite and norm <= self._norm_limit))
        if wanted:
            with _replaced(optimizer, given):
                self._step(*arguments, **named)
        else:
            self._fall()
        applied = wanted and not getattr(optimizer, "overflow", False)
        self.result = Step(norm, applied, rescaled and not applied)

    def _clip_measured(self) -> None:
        self._norm_before_clipping = self._norm()[0]
        self._clip()

    def _norm(self) -> tuple[float, dict[str, Any]]:
        """The gradient's norm, and what spares the optimizer to take it again."""
        optimizer = self._optimizer
        if self._norm_before_clipping is not None:
            norm, self._norm_before_clipping = self._norm_before_clipping, None
            return norm, {}
        if hasattr(optimizer, "_get_norm_groups"):  # ZeRO 3
            groups = optimizer._get_norm_groups()
            # Muon's updates, of which the optimizer takes the norm, are not made yet.
            given = {} if getattr(optimizer, "use_muon", False) else {"_get_norm_groups": lambda: groups}
            return _combined(groups) / float(optimizer.loss_scale), given
        if hasattr(optimizer, "scaled_global_norm"):  # ZeRO 1 and 2
            if not optimizer.compute_grad_norm:
                return 0.0, {}
            optimizer._wait_for_offload_copies()
            norm = optimizer.scaled_global_norm()
            later = optimizer.cpu_offload and _uses_muon(optimizer)
            return float(norm) / float(optimizer.loss_scale), {} if later else {"scaled_global_norm": lambda: norm}
        if hasattr(optimizer, "get_grads_for_norm"):  # bf16 with gradients in fp32
            gradients, scale = optimizer.get_grads_for_norm()[0], 1.0
        else:
            parameters = self._engine.module.parameters()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            scale = getattr(getattr(optimizer, "loss_scale_config", None), "cur_scale", 1.0)
        return float(torch.nn.utils.get_total_norm([gradient.float() for gradient in gradients])) / scale, {}

    def _fall(self) -> None:
        """Have the gradients thrown away."""
        optimizer = self._optimizer
        # The scale was not the reason, and DeepSpeed would warn of gradients that it takes to be infinite.
        kept: dict[str, Any] = {"_update_scale": lambda *_: None}

        def overflows(*_: Any, **__: Any) -> bool:
            optimizer.overflow = True
            return True

        if hasattr(optimizer, "_overflow_check_and_loss_scale_update"):
            kept["_overflow_check_and_loss_scale_update"] = overflows
        elif hasattr(optimizer, "scaled_global_norm"):
            kept |= {"check_grad_overflow": True, "check_overflow": overflows}
        elif hasattr(optimizer, "overflow_checker"):
            with _replaced(optimizer.overflow_checker, {"check": overflows, "has_overflow": overflows}):
                self._run(kept)
            return
        else:
            if hasattr(optimizer, "clear_hp_grads"):
                optimizer.clear_hp_grads()
                optimizer.clear_lp_grads()
            # Others keep gradients in the parameters, where the engine clears them after every step.
            return
        self._run(kept)

    def _run(self, kept: dict[str, Any]) -> None:
        known: Callable[[], Any] = self._step
        with _replaced(self._optimizer, kept):
            known()


def _scales(optimizer: Any) -> bool:
    config = getattr(optimizer, "loss_scale_config", None)
    if config is not None:
        return bool(config.dynamic_loss_scale)
    return bool(getattr(optimizer, "dynamic_loss_scale", False))


def _uses_muon(optimizer: Any) -> bool:
    return any(group.get("use_muon") for group in optimizer.optimizer.param_groups)


def _combined(groups: list[Any]) -> float:
    """Norms of groups -> norm of all; DeepSpeed says -1 for one that is not finite."""
    norms = [float(norm) for norm in groups]
    if any(not math.isfinite(norm) or norm < 0 for norm in norms):
        return math.inf
    return math.sqrt(math.fsum(norm**2 for norm in norms))


@contextmanager
def _replaced(owner: Any, attributes: dict[str, Any]) -> Iterator[None]:
    """Give an object other attributes as long as the block lasts."""
    own = {name: owner.__dict__[name] for name in attributes if name in owner.__dict__}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)

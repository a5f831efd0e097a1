"""The DeepSpeed settings as a pure function of ours, so that a test can read them without DeepSpeed."""

from dataclasses import dataclass
from typing import Any, Literal

from cslm.config import Section, setting


class DeepSpeedSection(Section):
    """How the model's states are sharded and in which precision it computes."""

    zero_stage: Literal[0, 1, 2, 3] = setting(3, "ZeRO stage: what of optimizer, gradients, parameters is sharded")
    precision: Literal["bf16", "fp32"] = setting("bf16", "precision of weights and activations; states stay fp32")


_SMALL_PARAMETER = 1_000_000


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer takes: `adamw` for all weights, or `muon` for the matrices inside the blocks."""

    kind: Literal["adamw", "muon"]
    learning_rate: float
    muon_learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float


def deepspeed_config(
    section: DeepSpeedSection,
    optimizer: OptimizerSettings,
    *,
    rows_per_step: int,
    micro_batch_rows: int,
    world_size: int,
    on_cpu: bool,
) -> dict[str, Any]:
    """The dict that `deepspeed.initialize` takes.

    The batch sizes are consistent by construction: rows_per_step = micro batch * accumulation * world size.
    """
    micro = min(micro_batch_rows, rows_per_step // world_size)
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.zero_stage == 3:
        # A small parameter is cheaper to keep whole than to gather for every use; its states are sharded all the same.
        zero["stage3_param_persistence_threshold"] = _SMALL_PARAMETER
        # DeepSpeed's own linear layer, which lets gathered weights go between forward and backward, makes both a tenth
        # slower on a CPU, where models are small enough to keep them.
        zero["memory_efficient_linear"] = not on_cpu
    if optimizer.kind == "muon":
        zero["reduce_scatter"] = False  # Muon needs the gradient of a whole matrix; DeepSpeed refuses otherwise
    return {
        "train_batch_size": rows_per_step,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": rows_per_step // world_size // micro,
        # DeepSpeed takes the norm over Muon's orthogonalised updates, whose size says nothing about the gradient's,
        # and Adam's step does not depend on the gradient's scale: nothing is left that clipping would guard.
        "gradient_clipping": optimizer.max_grad_norm if optimizer.kind == "adamw" else 0.0,
        "bf16": {"enabled": section.precision == "bf16"},
        "optimizer": _optimizer(optimizer, on_cpu),
        "zero_optimization": zero,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _optimizer(settings: OptimizerSettings, on_cpu: bool) -> dict[str, Any]:
    # PyTorch's own AdamW: DeepSpeed's fused one compiles for two minutes on a machine without GPU.
    common = {"betas": list(settings.betas), "weight_decay": settings.weight_decay, "torch_adam": True}
    if settings.kind == "adamw":
        return {"type": "AdamW", "params": {"lr": settings.learning_rate, "fused": not on_cpu, **common}}
    rates = {"adam_lr": settings.learning_rate, "muon_lr": settings.muon_learning_rate}
    return {"type": "Muon", "params": {"momentum": 0.95, "ns_method": "standard", **rates, **common}}

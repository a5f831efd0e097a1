"""The DeepSpeed settings as a pure function of ours, so that a test can read them without DeepSpeed."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from cslm.config import Section, setting
from cslm.errors import ConfigError
from cslm.train import deepspeed_file
from cslm.train.deepspeed_file import Facts

Precision = Literal["bf16", "fp16", "fp32"]


class DeepSpeedSection(Section):
    """How the model's states are sharded and in which precision it computes."""

    config_path: str | None = setting(
        None,
        "a DeepSpeed JSON of your own, given to DeepSpeed as it is: its sharding, precision, batch sizes, optimizer "
        'and scheduler hold instead of ours; what it leaves out or gives as "auto" is filled from ours',
    )
    zero_stage: Literal[0, 1, 2, 3] = setting(3, "ZeRO stage: what of optimizer, gradients, parameters is sharded")
    precision: Precision = setting(
        "bf16", "precision of weights and activations; states stay fp32. fp16 scales the loss and needs a GPU"
    )
    offload: Literal["none", "cpu", "nvme"] = setting(
        "none", "where optimizer states and master weights lie when not on the GPU (zero_stage 1 to 3; nvme: 3)"
    )
    offload_parameters: bool = setting(False, "keep the weights there too between uses (zero_stage 3)")
    nvme_path: str | None = setting(None, "folder on a disk of each node for offload nvme")


# A layer of 8B parameters has 218 M; gradients of it leave in one piece, and half of it is gathered ahead of its use.
_REDUCE_BUCKET = 200_000_000
_PREFETCH_BUCKET = 100_000_000
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
    document: dict[str, Any] | None = None,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """The dict that `deepspeed.initialize` takes.

    `document` is the content of `section.config_path`, `facts` what its "auto" values may ask for beside our settings.
    The batch sizes are consistent by construction and only DeepSpeed's bookkeeping: the loss is normalised by the
    targets of all ranks. Where the rows of a step are no multiple of the workers, some of them are blank. Raises
    ConfigError for what cannot go together.
    """
    rows = math.ceil(rows_per_step / world_size)
    micro = min(micro_batch_rows, rows)
    accumulation = math.ceil(rows / micro)
    ours = {
        "train_batch_size": micro * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        # DeepSpeed takes the norm over Muon's orthogonalised updates, whose size says nothing about the gradient's,
        # and Adam's step does not depend on the gradient's scale: nothing is left that clipping would guard.
        "gradient_clipping": optimizer.max_grad_norm if optimizer.kind == "adamw" else 0.0,
        "optimizer": _optimizer(optimizer, on_cpu, offloaded=section.offload != "none"),
        # Its line for every so many steps is ours already.
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if document is not None:
        return deepspeed_file.completed(document, ours, facts or Facts(), world_size=world_size, on_cpu=on_cpu)
    _check(section, on_cpu)
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.zero_stage == 3:
        # A small parameter is cheaper to keep whole than to gather for every use; its states are sharded all the same.
        zero["stage3_param_persistence_threshold"] = _SMALL_PARAMETER
        # DeepSpeed's own linear layer, which lets gathered weights go between forward and backward, makes both a tenth
        # slower on a CPU, where models are small enough to keep them.
        zero["memory_efficient_linear"] = not on_cpu
    if not on_cpu:
        # On a CPU there is no second stream that communication could take. DeepSpeed's own bucket of 500 M holds 2 GB
        # twice over.
        zero |= {"overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": _REDUCE_BUCKET}
        if section.zero_stage == 3:
            zero["stage3_prefetch_bucket_size"] = _PREFETCH_BUCKET
    if optimizer.kind == "muon":
        zero["reduce_scatter"] = False  # Muon needs the gradient of a whole matrix; DeepSpeed refuses otherwise
    zero |= _offload(section)
    return {
        **ours,
        "bf16": {"enabled": section.precision == "bf16"},
        # A scale that begins at DeepSpeed's 2^16 and doubles after 1,000 steps without overflow.
        "fp16": {"enabled": section.precision == "fp16"},
        "zero_optimization": zero,
    }


def precision_of(config: dict[str, Any]) -> Precision:
    """In which precision a DeepSpeed dict has the model compute."""
    for precision in ("bf16", "fp16"):
        if config.get(precision, {}).get("enabled"):
            return "bf16" if precision == "bf16" else "fp16"
    return "fp32"


def stage_of(config: dict[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed dict."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _optimizer(settings: OptimizerSettings, on_cpu: bool, *, offloaded: bool) -> dict[str, Any]:
    # PyTorch's own AdamW, fused: DeepSpeed's compiles for two minutes where there is no GPU. On a CPU, too, fused is
    # nine times as quick as PyTorch's loop over its operations, and the same from run to run. States that lie on the
    # host of a GPU are left to DeepSpeed's Adam for CPUs, which is made for them.
    common = {"betas": list(settings.betas), "weight_decay": settings.weight_decay}
    if settings.kind == "adamw":
        torch_adam = {} if offloaded else {"torch_adam": True, "fused": True}
        return {"type": "AdamW", "params": {"lr": settings.learning_rate, **common, **torch_adam}}
    rates = {"adam_lr": settings.learning_rate, "muon_lr": settings.muon_learning_rate}
    momentum = {"momentum": 0.95, "ns_method": "standard"}
    return {"type": "Muon", "params": {**momentum, **rates, **common, "torch_adam": True}}


def _offload(section: DeepSpeedSection) -> dict[str, Any]:
    if section.offload == "none":
        return {}
    place: dict[str, Any] = {"device": section.offload, "pin_memory": True}
    if section.offload == "nvme":
        place["nvme_path"] = section.nvme_path
    return {"offload_optimizer": place} | ({"offload_param": dict(place)} if section.offload_parameters else {})


def _check(section: DeepSpeedSection, on_cpu: bool) -> None:
    faults = []
    if section.precision == "fp16" and on_cpu:
        faults.append("deepspeed.precision: fp16 needs a GPU, found a CPU; take bf16 or fp32")
    if section.offload != "none":
        if on_cpu:
            faults.append("deepspeed.offload: needs a GPU, found a CPU, whose memory has it all already; take none")
        if section.zero_stage == 0 or (section.offload == "nvme" and section.zero_stage != 3):
            needed = "3" if section.offload == "nvme" else "1 to 3"
            faults.append(
                f"deepspeed.offload: {section.offload} needs deepspeed.zero_stage {needed}, found {section.zero_stage}"
            )
    if section.offload == "nvme" and not section.nvme_path:
        faults.append("deepspeed.nvme_path: offload nvme needs a folder on a disk of each node, found none")
    if section.offload_parameters and (section.offload == "none" or section.zero_stage != 3):
        faults.append(
            "deepspeed.offload_parameters: needs deepspeed.offload cpu or nvme and deepspeed.zero_stage 3, found "
            f"{section.offload} and {section.zero_stage}"
        )
    if faults:
        raise ConfigError(faults)

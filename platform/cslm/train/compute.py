"""How forward and backward are computed: what is computed again to save memory, fused kernels, compiled layers."""

import sys
from typing import TYPE_CHECKING, Literal

import torch

from cslm.config import Section, setting
from cslm.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ComputeSection(Section):
    """Memory against time in forward and backward, and the kernels that do them."""

    recompute_every: int | None = setting(
        None,
        "drop the activations of every so-many-th layer and compute them again backward: 1 saves most memory for a "
        "third more computing, 2 half of it; none when not given",
        unit="layers",
        ge=1,
    )
    kernels: Literal["auto", "torch", "liger"] = setting(
        "auto", "liger: fused Triton kernels for norms, rotary embedding and gated layers; auto takes them on a GPU"
    )
    compile: bool = setting(False, "compile the layers with torch.compile; on GPUs, with deepspeed.zero_stage 0 to 2")


def prepare(lm: "PreTrainedModel", section: ComputeSection, device: torch.device, zero_stage: int) -> None:
    """Bring a model into the form in which it is trained.

    Raises ConfigError for what cannot go together, MissingDependency where a kernel library is asked for and not there.
    """
    if section.recompute_every:
        lm.activation_checkpointing_enable(every_n_layers=section.recompute_every)
    if section.compile:
        _compile_layers(lm, section, device, zero_stage)
    elif section.kernels != "torch":
        _fuse(lm, section, device)


def varlen(lm: "PreTrainedModel", device: torch.device) -> bool:
    """Whether attention takes PyTorch's variable-length kernel: for 16 bits on GPUs, without dropout and softcap."""
    config = lm.config.get_text_config()
    other = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_logit_softcapping", None)
    return device.type == "cuda" and lm.dtype in (torch.bfloat16, torch.float16) and not other


def layer_classes(lm: "PreTrainedModel") -> list[type[torch.nn.Module]]:
    """The classes of the model's layers, the blocks that follow each other."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return list({type(module): None for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)})


def _compile_layers(lm: "PreTrainedModel", section: ComputeSection, device: torch.device, zero_stage: int) -> None:
    if zero_stage == 3 or device.type == "cpu" or section.kernels == "liger":
        raise ConfigError(
            "train.compute.compile: needs a GPU, deepspeed.zero_stage 0 to 2 (under 3 weights come and go inside a "
            "layer) and train.compute.kernels auto or torch (the compiler fuses by itself), found "
            f"{device.type}, {zero_stage} and {section.kernels}"
        )
    rotary = getattr(sys.modules[type(lm).__module__], "apply_rotary_pos_emb", None)
    if getattr(rotary, "__module__", "").startswith("liger_kernel"):
        raise ConfigError(
            "train.compute.compile: another model of this process took Liger Kernel's rotary embedding, which the "
            "compiler gets wrong; compile in a process of its own"
        )
    classes = layer_classes(lm)
    for module in lm.modules():
        if type(module) in classes:
            module.compile()


def _fuse(lm: "PreTrainedModel", section: ComputeSection, device: torch.device) -> None:
    wanted = section.kernels == "liger"
    if device.type == "cpu":
        if wanted:
            raise ConfigError("train.compute.kernels: liger needs a GPU, found a CPU; take auto or torch")
        return
    try:
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
    except ImportError as error:
        if not wanted:
            return
        raise MissingDependency("liger-kernel", "gpu", "train.compute.kernels liger") from error
    # The loss is ours: it is computed for targets only, and sums for each group come with it.
    _apply_liger_kernel_to_instance(lm, fused_linear_cross_entropy=False, cross_entropy=False)

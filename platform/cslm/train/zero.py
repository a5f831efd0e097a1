"""The DeepSpeed settings as a pure function of ours, so that a test can read them without DeepSpeed."""

from typing import Any, Literal

from cslm.config import Section, setting


class DeepSpeedSection(Section):
    """How the model's states are sharded and in which precision it computes."""

    zero_stage: Literal[0, 1, 2, 3] = setting(3, "ZeRO stage: what of optimizer, gradients, parameters is sharded")
    precision: Literal["bf16", "fp32"] = setting("bf16", "precision of weights and activations; states stay fp32")


def deepspeed_config(
    section: DeepSpeedSection,
    *,
    rows_per_step: int,
    micro_batch_rows: int,
    world_size: int,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    max_grad_norm: float,
) -> dict[str, Any]:
    """The dict that `deepspeed.initialize` takes.

    The batch sizes are consistent by construction: rows_per_step = micro batch * accumulation * world size.
    """
    micro = min(micro_batch_rows, rows_per_step // world_size)
    config: dict[str, Any] = {
        "train_batch_size": rows_per_step,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": rows_per_step // world_size // micro,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": section.precision == "bf16"},
        "optimizer": {
            "type": "AdamW",
            # PyTorch's own AdamW: DeepSpeed's fused one compiles for two minutes on a machine without GPU.
            "params": {
                "lr": learning_rate,
                "betas": list(betas),
                "weight_decay": weight_decay,
                "torch_adam": True,
            },
        },
        "zero_optimization": {"stage": section.zero_stage},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if section.zero_stage == 3:
        # Parameters below the threshold stay whole on every rank: gathering them costs more than they weigh.
        config["zero_optimization"] |= {"stage3_gather_16bit_weights_on_model_save": True}
    return config

"""A user's own DeepSpeed JSON: what it says is what DeepSpeed gets, what it leaves open is filled from our settings.

Such files are written for Hugging Face's Trainer ("auto" values), for Megatron-like trainers (explicit numbers and a
scheduler) or by hand. Batch sizes that they fix decide how many rows a step has.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cslm import storage
from cslm.errors import CheckpointError, ConfigError

_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# "auto" that DeepSpeed itself understands.
_DEEPSPEEDS_AUTO = ("pipeline.stages", "data_types.keep_in_fp32_modules")


@dataclass(frozen=True)
class Facts:
    """What "auto" values stand for beside optimizer and batch sizes, as Hugging Face's Trainer fills them."""

    num_steps: int = 1
    warmup_steps: int = 1
    hidden_size: int = 1024
    precision: str = "bf16"


def read(path: str | None) -> dict[str, Any] | None:
    """The JSON at a path that a user named, None without one. Raises ConfigError when it is not one or cannot work."""
    if path is None:
        return None
    where = storage.absolute(path)
    try:
        document = storage.read_json(where)
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed.config_path: must be a readable JSON file, found {where}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"deepspeed.config_path: {where} must hold an object, found {type(document).__name__}")
    _refuse(document)
    return document


def batch_sizes(
    document: dict[str, Any] | None, *, rows_per_step: int, micro_batch_rows: int, world_size: int
) -> tuple[int, int]:
    """Rows of a step and of a micro batch: those that the file fixes, else ours.

    Raises ConfigError when the file contradicts itself at this number of workers.
    """
    train, micro, accumulation = (_fixed(document or {}, name) for name in _SIZES)
    if train is None and micro is None and accumulation is None:
        return rows_per_step, micro_batch_rows
    if train is None:
        train = rows_per_step if micro is None or accumulation is None else micro * accumulation * world_size
    rows, rest = divmod(train, world_size)
    if not rest:
        if micro is None and accumulation is None:
            micro = next(size for size in range(min(micro_batch_rows, rows), 0, -1) if rows % size == 0)
        micro = micro or rows // (accumulation or 1)
        accumulation = accumulation or rows // max(micro, 1)
    if rest or micro is None or micro * (accumulation or 0) * world_size != train:
        found = ", ".join(f"{name} {(document or {}).get(name, 'not given')}" for name in _SIZES)
        raise ConfigError(
            "deepspeed.config_path: train_batch_size must be train_micro_batch_size_per_gpu * "
            f"gradient_accumulation_steps * train.num_workers, found {found}, {world_size} workers and "
            f'train.rows_per_step {rows_per_step}; leave one of the sizes out or give it as "auto"'
        )
    return train, micro


def completed(
    document: dict[str, Any], ours: dict[str, Any], facts: Facts, *, world_size: int, on_cpu: bool
) -> dict[str, Any]:
    """The dict for DeepSpeed: the file's, with ours where it says "auto" or nothing.

    `ours` are top-level values. Raises ConfigError for an "auto" that nothing of ours answers, and for sizes that
    contradict each other.
    """
    _refuse(document)
    config = copy.deepcopy(document)
    train, micro = batch_sizes(
        document,
        rows_per_step=ours["train_batch_size"],
        micro_batch_rows=ours["train_micro_batch_size_per_gpu"],
        world_size=world_size,
    )
    # What the file leaves open of the three follows from what it fixes.
    ours = {**ours, **dict(zip(_SIZES, (train, micro, train // micro // world_size), strict=True))}
    answers = _answers(ours, facts, document)
    unknown = []
    for path in list(_autos(config)):
        if path in answers:
            _set(config, path, answers[path])
        elif path not in _DEEPSPEEDS_AUTO:
            unknown.append(f'deepspeed.config_path: {path} is "auto", for which there is no setting here; give a value')
    if unknown:
        raise ConfigError(unknown)
    config = {**ours, **config}
    offloads = _offloads(config)
    if "optimizer" not in document and offloads:
        for name in ("torch_adam", "fused"):
            config["optimizer"]["params"].pop(name, None)
    if on_cpu and _would_compile(config):
        config["optimizer"].setdefault("params", {}).update({"torch_adam": True, "fused": True})
    if on_cpu and config.get("fp16", {}).get("enabled"):
        raise ConfigError("deepspeed.config_path: fp16.enabled needs a GPU, found a CPU; take bf16 or fp32")
    return config


def tell(document: dict[str, Any], *, on_cpu: bool) -> list[str]:
    """What a user should know of a file before training: which of our settings it takes the place of."""
    zero = document.get("zero_optimization", {})
    lines = [f"DeepSpeed's settings are those of deepspeed.config_path: ZeRO stage {zero.get('stage', 0)}"]
    if "optimizer" in document:
        kind = document["optimizer"].get("type")
        lines.append(f"its optimizer {kind} is taken; train.optimizer and its settings only fill what it gives as auto")
    if on_cpu and _would_compile(document):
        lines.append(
            "on a CPU its optimizer is PyTorch's fused Adam (torch_adam, fused): DeepSpeed's would be compiled"
        )
    if "scheduler" in document:
        kind = document["scheduler"].get("type")
        lines.append(f"its scheduler {kind} sets the learning rates; train.schedule and warm-up have no effect")
    if "gradient_clipping" not in document:
        lines.append("it says nothing of gradient_clipping: train.max_grad_norm holds")
    if not any(_enabled(document, name) for name in ("bf16", "fp16")):
        lines.append("it enables neither bf16 nor fp16: training is in fp32")
    return lines


def set_scheduler(scheduler: Any, num_steps: int) -> None:
    """Bring a learning-rate scheduler of DeepSpeed or PyTorch to where it is behind `num_steps` optimizer steps."""
    if hasattr(scheduler, "last_batch_iteration"):
        scheduler.step(num_steps - 1)
        return
    if scheduler.last_epoch > num_steps:
        raise CheckpointError(
            f"deepspeed.config_path: a scheduler must go forward, found one at step {scheduler.last_epoch} that should "
            f"go back to {num_steps}; take one of DeepSpeed's (WarmupLR, WarmupDecayLR, WarmupCosineLR, OneCycle)"
        )
    while scheduler.last_epoch < num_steps:
        scheduler.step()


def _offloads(document: dict[str, Any]) -> bool:
    placed = document.get("zero_optimization", {}).get("offload_optimizer", {})
    return bool(placed.get("device", "none") != "none")


def _would_compile(document: dict[str, Any]) -> bool:
    """Whether DeepSpeed would compile an Adam for the CPU, which takes two minutes and computes what PyTorch's does."""
    optimizer = document.get("optimizer", {})
    is_adam = str(optimizer.get("type", "")).lower() in ("adam", "adamw")
    return is_adam and not _offloads(document) and "torch_adam" not in optimizer.get("params", {})


def _enabled(document: dict[str, Any], name: str) -> bool:
    return document.get(name, {}).get("enabled") in (True, "auto")


def _fixed(document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None or value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"deepspeed.config_path: {name} must be a whole number from 1 on, found {value!r}")
    return value


def _answers(ours: dict[str, Any], facts: Facts, document: dict[str, Any]) -> dict[str, Any]:
    params = ours["optimizer"]["params"]
    rate = document.get("optimizer", {}).get("params", {}).get("lr", "auto")
    rate = params.get("lr", params.get("adam_lr")) if rate == "auto" else rate
    # Where a file leaves the choice between bf16 and fp16 to us, deepspeed.precision makes it.
    precision = {f"{name}.enabled": facts.precision == name for name in ("bf16", "fp16")}
    zero = "zero_optimization"
    return {
        **{name: ours[name] for name in (*_SIZES, "gradient_clipping")},
        **precision,
        "optimizer.type": ours["optimizer"]["type"],
        **{f"optimizer.params.{name}": value for name, value in params.items()},
        "optimizer.params.lr": rate,
        "optimizer.params.eps": 1e-8,
        "scheduler.params.warmup_min_lr": 0,
        "scheduler.params.warmup_max_lr": rate,
        "scheduler.params.warmup_num_steps": max(1, facts.warmup_steps),
        "scheduler.params.total_num_steps": facts.num_steps,
        f"{zero}.reduce_bucket_size": facts.hidden_size**2,
        f"{zero}.stage3_prefetch_bucket_size": int(0.9 * facts.hidden_size**2),
        f"{zero}.stage3_param_persistence_threshold": 10 * facts.hidden_size,
        # Read when Hugging Face's Trainer saves; our export needs neither.
        f"{zero}.stage3_gather_16bit_weights_on_model_save": False,
        f"{zero}.stage3_gather_fp16_weights_on_model_save": False,
        "steps_per_print": ours["steps_per_print"],
        "wall_clock_breakdown": False,
    }


def _autos(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{name}.")
        elif value == "auto":
            yield f"{prefix}{name}"


def _set(node: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = value


def _refuse(document: dict[str, Any]) -> None:
    """What DeepSpeed has and this trainer cannot do, rather than have it silently left out."""
    stages = document.get("pipeline", {}).get("stages", "auto")
    found = {
        "pipeline.stages": isinstance(stages, int) and stages > 1,
        "tensor_parallel.autotp_size": document.get("tensor_parallel", {}).get("autotp_size", 0) > 1,
        "sequence_parallel_size": document.get("sequence_parallel_size", 1) > 1,
        "expert_parallel.enabled": document.get("expert_parallel", {}).get("enabled", False),
        "elasticity.enabled": document.get("elasticity", {}).get("enabled", False),
        "autotuning.enabled": document.get("autotuning", {}).get("enabled", False),
        "data_efficiency.enabled": document.get("data_efficiency", {}).get("enabled", False),
        "curriculum_learning.enabled": document.get("curriculum_learning", {}).get("enabled", False),
    }
    faults = [
        f"deepspeed.config_path: {path} has no meaning here, where every worker trains the whole model on packed rows "
        "of its own; leave it out"
        for path, there in found.items()
        if there
    ]
    if faults:
        raise ConfigError(faults)

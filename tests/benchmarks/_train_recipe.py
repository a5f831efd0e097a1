"""The usual recipe: transformers' Trainer with a DeepSpeed JSON, examples drawn at random and padded to the longest."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tests.benchmarks._train_data import Example


class Collator:
    """Pads a batch to its longest example, and remembers how many tokens of each batch were none of padding."""

    def __init__(self) -> None:
        self.useful: list[int] = []

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Examples -> what a causal LM of transformers takes."""
        sizes = [len(example.input_ids) for example in examples]
        self.useful.append(sum(sizes))
        shape = (len(examples), max(sizes))
        input_ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, -100)
        for place, (example, size) in enumerate(zip(examples, sizes, strict=True)):
            ids = torch.from_numpy(example.input_ids)
            input_ids[place, :size], mask[place, :size] = ids, 1
            labels[place, :size] = torch.where(torch.from_numpy(example.loss_mask) > 0, ids, -100)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


class Clock(TrainerCallback):
    """Notes the time behind every optimizer step."""

    def __init__(self, began: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        self._began = began

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by Trainer when engine and data are ready."""
        self._began()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by Trainer."""
        self.seconds.append(time.perf_counter())


def deepspeed_json(stage: int, learning_rate: float) -> dict[str, Any]:
    """As it stands in the documentation of both, with PyTorch's AdamW, which needs no compiler."""
    adamw = {"lr": learning_rate, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "torch_adam": True}
    return {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, "overlap_comm": False, "contiguous_gradients": True},
        "optimizer": {"type": "AdamW", "params": adamw},
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "steps_per_print": 10**9,
    }


def train(
    model: PreTrainedModel,
    examples: list[Example],
    folder: str,
    *,
    stage: int,
    micro_batch: int,
    batch: int,
    steps: int,
    learning_rate: float = 6e-5,
    schedule: str = "cosine",
    seed: int = 0,
    began: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[int]]:
    """Train on this rank; returns the time behind each optimizer step and the useful tokens of each, over all ranks."""
    collator, clock = Collator(), Clock(began)
    accumulation = batch // micro_batch // dist.get_world_size()
    # Left to itself on a CPU, Trainer takes DDP where DeepSpeed was asked for, and says nothing.
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend="gloo")
    arguments = TrainingArguments(
        folder,
        deepspeed=deepspeed_json(stage, learning_rate),
        bf16=True,
        use_cpu=True,
        accelerator_config={"use_configured_state": True},
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=10**6,
        remove_unused_columns=False,
        seed=seed,
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=examples, callbacks=[clock])  # type: ignore[arg-type]
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine", "the usual recipe must train under DeepSpeed"
    counted = torch.tensor(collator.useful[: steps * accumulation]).reshape(steps, accumulation).sum(1)
    dist.all_reduce(counted)
    return clock.seconds, counted.tolist()

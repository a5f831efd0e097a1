"""Training ranks as processes of a test: a group over gloo, a tiny model, and batches that follow from the step."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cslm.data.feed import Batch
from cslm.lm import lora, text_tokenizer
from cslm.lm import model as lm_model
from cslm.lm.model import ModelSection
from cslm.train.build import Recipe
from cslm.train.engine import ZeroEngine
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config

ROWS, LENGTH = 4, 24
RATE, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.01
CPU = torch.device("cpu")


def write_model(folder: Path) -> str:
    """A start model of the micro shape with a head that is not zero, so that every weight has a gradient."""
    tokenizer = text_tokenizer.train(["one two three"] * 3, vocab_size=320)
    layout = lm_model._extend(tokenizer, 10, "abc", 25.0)
    torch.manual_seed(0)
    model = lm_model._from_shape(ModelSection(shape="micro"), tokenizer, layout)
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    lm_model.save(str(folder), model, tokenizer, layout)
    return str(folder)


def gather(engine: ZeroEngine) -> dict[str, torch.Tensor] | None:
    """The whole model's weights by their Hugging Face names, on rank 0; None elsewhere. All ranks must call."""
    whole: dict[str, torch.Tensor] = {}
    for weight in lora.weights(engine.lm):
        with engine.gathered(weight.parameters), torch.no_grad():
            if dist.get_rank() == 0:
                whole[weight.name] = weight.combine(*weight.parameters).cpu().clone()
    return whole if dist.get_rank() == 0 else None


def run(size: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work(*arguments)` on every rank of a new group of processes."""
    mp.spawn(_start, args=(size, free_port(), work, arguments), nprocs=size)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def join_alone(backend: str) -> None:
    """Make a group of this process alone."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    port = os.environ["MASTER_PORT"] = str(free_port())
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)


def _start(rank: int, size: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    work(*arguments)
    dist.barrier()
    dist.destroy_process_group()


def engine(
    start: str,
    stage: int,
    precision: str = "fp32",
    optimizer: str = "adamw",
    changes: dict[str, Any] | None = None,
    *,
    micro_batch_rows: int = 1,
    num_groups: int = 1,
    recipe: Recipe | None = None,
    device: torch.device = CPU,
    **sharding: Any,
) -> ZeroEngine:
    """An engine of this rank over ROWS rows a step, AdamW at RATE with DECAY; more of DeepSpeedSection by name.

    `changes` are laid over DeepSpeed's settings, one level deep.
    """
    config = deepspeed_config(
        DeepSpeedSection(zero_stage=stage, precision=precision, **sharding),
        OptimizerSettings(optimizer, RATE, 0.02, BETAS, DECAY, 1.0),
        rows_per_step=ROWS,
        micro_batch_rows=micro_batch_rows,
        world_size=dist.get_world_size(),
        on_cpu=device.type == "cpu",
    )
    for key, value in (changes or {}).items():
        config[key] = {**config.get(key, {}), **value}
    return ZeroEngine(start, config, num_groups, device, recipe or Recipe(embedding_learning_rate=RATE))


def steps(engine: ZeroEngine, first: int, number: int) -> list[float]:
    """Train some steps; the loss of each over all ranks."""
    losses = []
    for step in range(first, first + number):
        total = torch.zeros(2, 1, dtype=torch.float64)
        for row in range(dist.get_rank(), ROWS, dist.get_world_size()):
            ids = torch.randint(0, 300, (1, LENGTH), generator=torch.Generator().manual_seed(100 * step + row))
            batch = Batch(ids, torch.arange(LENGTH)[None], ids.roll(-1, 1), torch.zeros_like(ids))
            total += engine.accumulate(batch, ROWS * LENGTH)
        dist.all_reduce(total)
        engine.step(1.0)
        losses.append(float(total[0, 0] / total[1, 0]))
    return losses

"""Training of a network that every rank holds whole: how its ranks are started, and the one file of its checkpoint.

The speech decoder and the recogniser are such networks. The language model is sharded, and has rooms of its own for
both (`train.trainer`, `train.checkpoint`).
"""

import io
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import save as save_tensors
from torch import nn

from cslm import gang, storage
from cslm.errors import CheckpointError, CslmError
from cslm.gang import GangSection
from cslm.train.optimizers import Optimizers

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKPOINT = "checkpoint.pt"
ProgressT = TypeVar("ProgressT", bound="DataclassInstance")


def run(
    rank_main: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    section: GangSection,
    *,
    num_workers: int,
    max_failures: int,
    result: str,
    use_gpu: bool,
) -> dict[str, Any]:
    """Call `rank_main(settings)` on every rank by Ray Train, again after failures, and give what it leaves.

    That is the JSON file `result` below `settings["output"]`; `settings` holds plain values only. Raises CslmError when
    the workers are not to be had, and when there is no result.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    output = settings["output"]
    gang.wait(num_workers, section, use_gpu=use_gpu)
    trainer = TorchTrainer(
        rank_main,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=gang.scaling(num_workers, section, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name="ray_train",
            **gang.results_in(output),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()
    path = storage.join(output, result)
    if not storage.exists(path):
        raise CslmError(f"training must end with {path}, found none; see the workers' logs")
    return dict(storage.read_json(path))


def device() -> torch.device:
    """The device of this rank; a CPU gets the threads that Ray gives."""
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return torch.device("cpu")


def save(
    output: str, network: nn.Module, optimizers: Optimizers, progress: "DataclassInstance", identity: dict[str, Any]
) -> None:
    """Write the checkpoint: one file in one piece, so it is there whole or not at all."""
    state = {
        "network": network.state_dict(),
        "optimizers": [part.state_dict() for part in optimizers.parts],
        "progress": asdict(progress),
        "identity": identity,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(storage.join(output, CHECKPOINT), buffer.getvalue())


def restore(
    output: str,
    network: nn.Module,
    optimizers: Optimizers,
    begin: Callable[..., ProgressT],
    identity: dict[str, Any],
    device: torch.device,
) -> ProgressT:
    """Load the checkpoint of the same training, by `identity`, and give its progress; `begin()` when there is none.

    Raises CheckpointError for a file that is no checkpoint; nothing in it is run.
    """
    path = storage.join(output, CHECKPOINT)
    if not storage.exists(path):
        return begin()
    try:
        state = torch.load(io.BytesIO(storage.read_bytes(path)), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} must be a checkpoint of this job, of tensors and numbers, found something else "
            f"({str(error).splitlines()[0]}); remove it, and training begins anew"
        ) from error
    if state["identity"] != identity:
        return begin()
    network.load_state_dict(state["network"])
    for part, known in zip(optimizers.parts, state["optimizers"], strict=True):
        part.load_state_dict(known)
    return begin(**state["progress"])


def write_weights(path: str, network: nn.Module) -> None:
    """Write the weights as safetensors."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    storage.write_bytes(path, save_tensors(weights))

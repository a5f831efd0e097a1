"""Training on a Ray cluster: starts the ranks by Ray Train, and again after failures, and tells how it ended."""

import os
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from cslm import gang, storage
from cslm.errors import CslmError
from cslm.train import checkpoint
from cslm.train.guard import TrainingStopped
from cslm.train.loop import TrainSection, workers
from cslm.train.worker import RESULT, rank_main

_RAYS_LIST = "checkpoint_manager_snapshot.json"


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training.

    `settings` holds plain values only: `train`, `deepspeed`, `lora` (sections as dicts), `deepspeed_file` (content of
    the user's own), `start_model`, `chain` (how answers are written, None where
    there are none), `packed`, `row_length`, `output`, `num_steps`, `identity`, `tracking` (handle of
    the run), `evaluation` (`packed` and `num_rows` of the held-out rows, or None).
    """
    section = TrainSection(**settings["train"])
    # Ray Train would print every worker's line a second time as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    output = settings["output"]
    # Ray's own list of checkpoints: it refuses to start where one that it names was deleted. Ours are found by listing.
    storage.remove(storage.join(output, checkpoint.FOLDER, _RAYS_LIST))
    least, most = workers(section.num_workers)
    # Ray Train's newer arguments, which its stubs do not know.
    scaling = gang.scaling(
        most if least == most else (least, most),
        section,
        use_gpu=use_gpu,
        elastic_resize_monitor_interval_s=section.resize_every_s,
    )
    gang.wait(least, section, use_gpu=use_gpu)
    trainer = TorchTrainer(
        rank_main,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=checkpoint.FOLDER,
            **gang.results_in(output),
            failure_config=ray.train.FailureConfig(max_failures=section.max_failures),
        ),
    )
    result = storage.join(output, RESULT)
    storage.remove(result)
    trainer.fit()
    if not storage.exists(result):
        raise CslmError(f"training must end with {result}, found none; see the workers' logs")
    told = dict(storage.read_json(result))
    if "stopped" in told:
        raise TrainingStopped(told["stopped"])
    return told

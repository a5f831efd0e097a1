"""Training on a Ray cluster: the trainer that starts the ranks, and what each rank does."""

import os
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer

from cslm import storage
from cslm.data.feed import PackedFeed
from cslm.errors import CslmError
from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer, vocabulary
from cslm.train import checkpoint
from cslm.train.engine import ZeroEngine
from cslm.train.loop import TrainSection, metrics_of, train
from cslm.train.reporter import Reporter
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config

RESULT = "training.json"


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training.

    `settings` holds plain values only: `train`, `deepspeed` (sections as dicts), `start_model`, `packed`,
    `row_length`, `output`, `num_steps`, `identity`, `tracking` (handle of the run).
    """
    section = TrainSection(**settings["train"])
    # Ray Train would print every worker's line a second time as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    trainer = TorchTrainer(
        _rank_main,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=section.num_workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=checkpoint.FOLDER,
            storage_path=settings["output"],
            failure_config=ray.train.FailureConfig(max_failures=section.max_failures),
        ),
    )
    trainer.fit()
    result = storage.join(settings["output"], RESULT)
    if not storage.exists(result):
        raise CslmError(f"training must end with {result}, found none; see the workers' logs")
    return dict(storage.read_json(result))


def _rank_main(settings: dict[str, Any]) -> None:
    section, zero = TrainSection(**settings["train"]), DeepSpeedSection(**settings["deepspeed"])
    use_gpu = torch.cuda.is_available() and dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
    if not use_gpu:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(section.seed)
    output, start = settings["output"], settings["start_model"]
    with storage.local_folder(start) as folder:
        tokenizer, layout = text_tokenizer.load(folder), vocabulary.load(folder)
    feed = PackedFeed(
        settings["packed"],
        row_length=settings["row_length"],
        rows_per_step=section.rows_per_step,
        micro_batch_rows=section.micro_batch_rows,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        seed=section.seed,
        pad_id=tokenizer.pad_token_id or 0,
        vocabulary=layout.hash,
        fingerprint=settings["identity"]["packed"],
    )
    engine = ZeroEngine(
        start,
        deepspeed_config(
            zero,
            OptimizerSettings(
                kind=section.optimizer,
                learning_rate=section.learning_rate,
                muon_learning_rate=section.muon_learning_rate,
                betas=(0.9, section.adam_beta2),
                weight_decay=section.weight_decay,
                max_grad_norm=section.max_grad_norm,
            ),
            rows_per_step=section.rows_per_step,
            micro_batch_rows=section.micro_batch_rows,
            world_size=dist.get_world_size(),
            on_cpu=device.type == "cpu",
        ),
        len(feed.groups),
        device,
        precision=zero.precision,
        embedding_learning_rate=section.embedding_learning_rate or section.learning_rate,
        computing=section.compute,
    )
    progress = checkpoint.restore(output, engine, settings["identity"])
    reporter = Reporter(settings["tracking"], settings["num_steps"], progress.step)
    progress = train(
        engine,
        feed,
        section,
        settings["num_steps"],
        progress,
        report=reporter,
        checkpoint=checkpoint.saver(output, engine, settings["identity"], section.keep_checkpoints),
    )
    state = engine.gather()
    if state is not None:
        lm_model.save(storage.join(output, "model"), engine.lm, tokenizer, layout, state)
        storage.write_json(storage.join(output, RESULT), metrics_of(progress))
    reporter.close()
    feed.close()
    dist.barrier()

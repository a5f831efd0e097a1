"""What each rank of a training does: open feed and engine, go on where a checkpoint is, train, export the model."""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import CheckpointUploadMode
from ray.train.v2._internal.execution.context import get_train_context

from cslm import storage
from cslm.data.feed import PackedFeed
from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer, vocabulary
from cslm.lm.chain import ChainSection
from cslm.lm.lora import LoraSection
from cslm.lm.vocabulary import Vocabulary
from cslm.train import checkpoint, export
from cslm.train.bad_rows import BadRows
from cslm.train.build import Recipe
from cslm.train.deepspeed_file import Facts
from cslm.train.engine import ZeroEngine
from cslm.train.evaluation import Evaluation
from cslm.train.figures import Meter
from cslm.train.flops import ModelFlops, peak_flops
from cslm.train.guard import TrainingStopped
from cslm.train.loop import TrainSection, schedule_of, train
from cslm.train.progress import Progress, metrics_of
from cslm.train.reporter import Reporter
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config

RESULT = "training.json"


def rank_main(settings: dict[str, Any]) -> None:
    """Train on this rank of a process group that Ray Train has made; `settings` as `trainer.run` takes them.

    Rank 0 leaves RESULT beside the model: the figures of the training, or why it was stopped.
    """
    section = TrainSection(**settings["train"])
    use_gpu = torch.cuda.is_available() and dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
    if not use_gpu:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(section.seed)
    output, start = settings["output"], settings["start_model"]
    with storage.local_folder(start) as folder:
        tokenizer, layout = text_tokenizer.load(folder), vocabulary.load(folder)
        lm_hidden_size = lm_model.hidden_size(folder)

    def feed_of(folder: str, rows_per_step: int) -> PackedFeed:
        return PackedFeed(
            folder,
            row_length=settings["row_length"],
            rows_per_step=rows_per_step,
            micro_batch_rows=section.micro_batch_rows,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            seed=section.seed,
            pad_id=tokenizer.pad_token_id or 0,
            vocabulary=layout.hash,
        )

    feed = feed_of(settings["packed"], section.rows_per_step)
    engine = _engine(settings, section, len(feed.groups), lm_hidden_size, device)
    if section.ema_decay is not None:
        engine.state.start_average(section.ema_decay)
    progress = checkpoint.restore(output, engine.state, settings["identity"], device=device)
    reporter = Reporter(settings["tracking"], settings["num_steps"], progress.step)
    saver = checkpoint.Saver(
        output,
        engine.state,
        settings["identity"],
        keep_last=section.keep_checkpoints,
        keep_best=max(section.keep_best, section.evaluation.final_model == "best"),
        score=held_out_loss,
        publish=_report,
        before_it_counts=reporter.flush,
        device=device,
    )

    def roll_back(before: int) -> Progress:
        saver.wait()
        dist.barrier()
        return checkpoint.restore(output, engine.state, settings["identity"], before=before, device=device)

    evaluate = None
    if held_out := settings["evaluation"]:
        rows = max(min(held_out["num_rows"], section.evaluation.max_rows), dist.get_world_size())
        evaluate = Evaluation(engine, feed_of(held_out["packed"], rows))
    peak, _ = peak_flops(device, engine.lm.dtype)
    stopped = ""
    try:
        progress = train(
            engine,
            feed,
            section,
            settings["num_steps"],
            progress,
            report=reporter,
            checkpoint=saver,
            leaving=PreemptionNotice(),
            roll_back=roll_back,
            note=BadRows(output, feed),
            evaluate=evaluate,
            meter=Meter(device, flops=ModelFlops.of(engine.lm).of_batch, peak_flops=peak),
        )
    except TrainingStopped as error:
        # Not raised: Ray Train would start the workers again, and they would end the same.
        stopped = str(error)
    saver.wait()
    dist.barrier()
    if not stopped:
        best = progress.best
        if section.evaluation.final_model == "best" and best is not None and best[0] != progress.step:
            checkpoint.load(checkpoint.step_folder(output, int(best[0])), engine.state)
        card = export.card(_facts(settings, layout, feed.groups, progress))
        value_of = None if section.ema_decay is None else engine.state.average_of
        chain = None if settings["chain"] is None else ChainSection(**settings["chain"])
        export.write(
            storage.join(output, "model"), engine, tokenizer, layout, card=card, chain=chain, value_of=value_of
        )
    if dist.get_rank() == 0:
        storage.write_json(storage.join(output, RESULT), {"stopped": stopped} if stopped else metrics_of(progress))
    reporter.close()
    feed.close()
    dist.barrier()


def _engine(
    settings: dict[str, Any], section: TrainSection, num_groups: int, hidden_size: int, device: torch.device
) -> ZeroEngine:
    zero = DeepSpeedSection(**settings["deepspeed"])
    config = deepspeed_config(
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
        document=settings["deepspeed_file"],
        facts=Facts(
            num_steps=settings["num_steps"],
            warmup_steps=schedule_of(section, settings["num_steps"]).warmup_steps,
            hidden_size=hidden_size,
            precision=zero.precision,
        ),
    )
    recipe = Recipe(
        embedding_learning_rate=section.embedding_learning_rate,
        lora=LoraSection(**settings["lora"]),
        freeze=section.freeze,
        compute=section.compute,
    )
    return ZeroEngine(settings["start_model"], config, num_groups, device, recipe)


def held_out_loss(progress: Progress) -> float | None:
    """The loss on the held-out split where it was evaluated at this very step."""
    if not progress.evaluations or progress.evaluations[-1][0] != progress.step:
        return None
    return float(progress.evaluations[-1][1])


def _report(step: int, folder: str, write: Callable[[], None]) -> None:
    """Have Ray Train write a checkpoint in its background thread, where it also tells of faults."""
    context = ray.train.get_context().get_storage()
    path = f"{context.experiment_fs_path}/{storage.name(folder)}"
    place = ray.train.Checkpoint(path, filesystem=context.storage_filesystem)

    def upload(given: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        write()
        return given

    ray.train.report(
        {"step": step},
        checkpoint=place,
        checkpoint_dir_name=storage.name(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
        delete_local_checkpoint_after_upload=False,
    )


class PreemptionNotice:
    """Whether the cloud has said since the last call that a node of this run will be taken away.

    Ray Train's own question waits for all ranks; this one looks at what was noted on this rank.
    """

    def __init__(self) -> None:
        self._noted = get_train_context().preemption_context
        self._known: object = None

    def __call__(self) -> bool:
        """True once for every piece of news."""
        found = self._noted.preemption_info
        news = found is not None and found != self._known
        self._known = found
        return news


def _facts(settings: dict[str, Any], layout: Vocabulary, groups: list[str], progress: Progress) -> dict[str, Any]:
    """What the model card tells."""
    languages = sorted({part for name in groups for part in name.partition("/")[2].split("-") if part})
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "deepspeed", "ray")}
    return {
        "name": settings["output"],
        "base_model": settings["base_model"],
        "languages": languages,
        "tasks": groups,
        "data": {
            "packed rows (fingerprint)": settings["identity"]["packed"],
            "speech tokenizer (fingerprint)": layout.unit_tokenizer,
            "vocabulary (hash)": layout.hash,
            "speech units": layout.num_units,
            "frame rate (Hz)": layout.frame_rate_hz,
        },
        "final_losses": {name: f"{value:.4f}" for name, value in sorted(progress.last.items())},
        "training": {"steps": progress.step, "tokens": progress.tokens, **settings["train"], **settings["deepspeed"]},
        "versions": {"python": platform.python_version(), **versions},
    }

"""Training of the speech decoder on a Ray cluster: the trainer that starts the ranks, and what each rank does."""

import io
import os
import pickle
from dataclasses import asdict
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cslm import gang, storage
from cslm.data import clips
from cslm.errors import CheckpointError, CslmError
from cslm.speech.decoder.networks import DecoderShape, Networks
from cslm.train.decoder.feed import ClipFeed
from cslm.train.decoder.loop import FitSection, Progress, held_out, train
from cslm.train.optimizers import Optimizers
from cslm.train.reporter import Reporter

RESULT = "decoder.json"
WEIGHTS = "networks.safetensors"
CHECKPOINT = "checkpoint.pt"
VOICES = "voices.safetensors"
# Crops of each batch of held-out clips.
_LOOKED_AT_CROPS = 4


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training; the weights lie in `output`/WEIGHTS.

    `settings` holds plain values only: `fit` (section as a dict), `shape`, `flow_steps`, `speakers` (in the order of
    `output`/VOICES), `train` and `dev` (names of shards), `output`, `identity`, `tracking` (handle of the run).
    """
    section = FitSection(**settings["fit"])
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gang.wait(section.num_workers, section, use_gpu=use_gpu)
    trainer = TorchTrainer(
        _rank_main,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=gang.scaling(section.num_workers, section, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name="ray_train",
            **gang.results_in(settings["output"]),
            failure_config=ray.train.FailureConfig(max_failures=section.max_failures),
        ),
    )
    trainer.fit()
    result = storage.join(settings["output"], RESULT)
    if not storage.exists(result):
        raise CslmError(f"training must end with {result}, found none; see the workers' logs")
    return dict(storage.read_json(result))


def _rank_main(settings: dict[str, Any]) -> None:
    section = FitSection(**settings["fit"])
    rank, world_size = dist.get_rank(), dist.get_world_size()
    use_gpu = torch.cuda.is_available() and dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
    if not use_gpu:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    output, shape = settings["output"], DecoderShape.unpack(settings["shape"])
    with_flow = settings["flow_steps"] > 0
    voices_SV = load_tensors(storage.read_bytes(storage.join(output, VOICES)))["voices_SV"]
    torch.manual_seed(section.seed)
    networks = Networks(shape, voices_SV[: settings["num_known"]]).to(device)
    # What is not trained takes no part: it has no gradients, and no weight decay.
    networks.acoustic.flow.requires_grad_(with_flow)
    networks.vocoder.requires_grad_(section.num_crops > 0)
    optimizers = Optimizers(networks, section)
    voices = dict(zip(settings["speakers"], voices_SV, strict=True))
    options = {"crop_frames": section.crop_frames, "gap": networks.gap, "seed": section.seed}
    rate_hz = shape.mel.sample_rate_hz
    feed = ClipFeed(
        clips.read(output, settings["train"], rate_hz, (rank, world_size)),
        voices,
        shape,
        batch_s=section.batch_s / world_size,
        num_crops=-(-section.num_crops // world_size),
        rank=rank,
        **options,
    )
    batches = []
    if dev := clips.read(output, settings["dev"], rate_hz, (rank, world_size)):
        num_crops = _LOOKED_AT_CROPS if section.num_crops else 0
        looked_at = ClipFeed(dev, voices, shape, batch_s=section.batch_s, num_crops=num_crops, rank=rank, **options)
        batches = [looked_at.batch(step) for step in range(looked_at.batches_an_epoch)]
    progress = _restore(output, networks, optimizers, settings["identity"], device)
    reporter = Reporter(
        settings["tracking"],
        section.max_steps,
        progress.step,
        rate=("throughput/audio_s_per_s", "audio s/s"),
        fraction="progress/fraction",
    )

    def checkpoint(progress: Progress) -> None:
        if rank == 0:
            _save(output, networks, optimizers, progress, settings["identity"])

    progress = train(
        networks,
        optimizers,
        feed,
        lambda: held_out(networks, batches, device, with_flow),
        section,
        progress,
        device,
        with_flow=with_flow,
        report=reporter,
        checkpoint=checkpoint,
    )
    if rank == 0:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in networks.state_dict().items()}
        storage.write_bytes(storage.join(output, WEIGHTS), save_tensors(weights))
        storage.write_json(storage.join(output, RESULT), {**asdict(progress), "identity": settings["identity"]})
    reporter.close()
    dist.barrier()


def _save(
    output: str, networks: Networks, optimizers: Optimizers, progress: Progress, identity: dict[str, Any]
) -> None:
    state = {
        "networks": networks.state_dict(),
        "optimizers": [part.state_dict() for part in optimizers.parts],
        "progress": asdict(progress),
        "identity": identity,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # One file, written in one piece: it is there whole or not at all.
    storage.write_bytes(storage.join(output, CHECKPOINT), buffer.getvalue())


def _restore(
    output: str, networks: Networks, optimizers: Optimizers, identity: dict[str, Any], device: torch.device
) -> Progress:
    """Load the checkpoint of the same training; a fresh start when there is none."""
    path = storage.join(output, CHECKPOINT)
    if not storage.exists(path):
        return Progress()
    try:
        state = torch.load(io.BytesIO(storage.read_bytes(path)), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} must be a checkpoint of this job, of tensors and numbers, found something else "
            f"({str(error).splitlines()[0]}); remove it, and training begins anew"
        ) from error
    if state["identity"] != identity:
        return Progress()
    networks.load_state_dict(state["networks"])
    for part, known in zip(optimizers.parts, state["optimizers"], strict=True):
        part.load_state_dict(known)
    return Progress(**state["progress"])

"""Training of the speech decoder on a Ray cluster: the trainer that starts the ranks, and what each rank does."""

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors

from cslm import storage
from cslm.data import clips
from cslm.speech.decoder.networks import DecoderShape, Networks
from cslm.train import data_parallel
from cslm.train.decoder.feed import ClipFeed
from cslm.train.decoder.loop import FitSection, Progress, held_out, train
from cslm.train.optimizers import Optimizers
from cslm.train.reporter import Reporter

RESULT = "decoder.json"
WEIGHTS = "networks.safetensors"
VOICES = "voices.safetensors"
# Crops of each batch of held-out clips.
_LOOKED_AT_CROPS = 4


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training; the weights lie in `output`/WEIGHTS.

    `settings` holds plain values only: `fit` (section as a dict), `shape`, `flow_steps`, `speakers` (in the order of
    `output`/VOICES), `train` and `dev` (names of shards), `output`, `identity`, `tracking` (handle of the run).
    """
    section = FitSection(**settings["fit"])
    workers = {"num_workers": section.num_workers, "max_failures": section.max_failures}
    return data_parallel.run(_rank_main, settings, section, **workers, result=RESULT, use_gpu=use_gpu)


def _rank_main(settings: dict[str, Any]) -> None:
    section = FitSection(**settings["fit"])
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = data_parallel.device()
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
    progress = data_parallel.restore(output, networks, optimizers, Progress, settings["identity"], device)
    reporter = Reporter(
        settings["tracking"],
        section.max_steps,
        progress.step,
        rate=("throughput/audio_s_per_s", "audio s/s"),
        fraction="progress/fraction",
    )

    def checkpoint(progress: Progress) -> None:
        if rank == 0:
            data_parallel.save(output, networks, optimizers, progress, settings["identity"])

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
        data_parallel.write_weights(storage.join(output, WEIGHTS), networks)
        storage.write_json(storage.join(output, RESULT), {**asdict(progress), "identity": settings["identity"]})
    reporter.close()
    dist.barrier()

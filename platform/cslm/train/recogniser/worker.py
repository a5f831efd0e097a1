"""Training of the recogniser on a Ray cluster: the trainer that starts the ranks, and what each rank does."""

import io
import os
import pickle
from dataclasses import asdict
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import save as save_tensors

from cslm import gang, storage
from cslm.data import spectra
from cslm.data.spectra import Spectrum
from cslm.errors import CheckpointError, CslmError
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.train.optimizers import Optimizers
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.feed import SpectraFeed
from cslm.train.recogniser.loop import FitSection, Progress, error_rates, train
from cslm.train.reporter import Reporter

RESULT = "recogniser.json"
WEIGHTS = "recogniser.safetensors"
CHECKPOINT = "checkpoint.pt"


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training; the weights lie in `output`/WEIGHTS.

    `settings` holds plain values only: `fit`, `augment` (sections as dicts), `shape`, `dropout`, `characters`,
    `languages`, `train` and `dev` (names of shards), `output`, `identity`, `tracking` (handle of the run).
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
    alphabet = Alphabet(tuple(settings["characters"]))
    torch.manual_seed(section.seed)
    network = Network(Shape(**settings["shape"]), alphabet.num_symbols, settings["dropout"]).to(device)
    optimizers = Optimizers(network, section)
    output = settings["output"]
    feed = SpectraFeed(
        _share(spectra.read(output, settings["train"]), rank, world_size),
        alphabet,
        batch_s=section.batch_s / world_size,
        gap=network.gap,
        seed=section.seed,
        rank=rank,
        augmentation=AugmentSection(**settings["augment"]),
        short_bias=section.short_bias,
    )
    dev = _share(_some(spectra.read(output, settings["dev"]), section.evaluate_utterances), rank, world_size)
    progress = _restore(output, network, optimizers, settings["identity"], device)
    reporter = Reporter(
        settings["tracking"],
        section.max_steps,
        progress.step,
        rate=("throughput/audio_s_per_s", "audio s/s"),
        fraction="progress/fraction",
    )

    def checkpoint(progress: Progress) -> None:
        if rank == 0:
            _save(output, network, optimizers, progress, settings["identity"])

    def evaluate() -> dict[str, float]:
        return error_rates(network, alphabet, dev, settings["languages"], device)

    progress = train(
        network, optimizers, feed, evaluate, section, progress, device, report=reporter, checkpoint=checkpoint
    )
    if rank == 0:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        storage.write_bytes(storage.join(output, WEIGHTS), save_tensors(weights))
        result = {**asdict(progress), "identity": settings["identity"]}
        storage.write_json(storage.join(output, RESULT), result)
    reporter.close()
    dist.barrier()


def _share(rows: list[Spectrum], rank: int, world_size: int) -> list[Spectrum]:
    """The utterances that fall to a rank: every one to one of them, lengths dealt evenly."""
    ordered = sorted(rows, key=lambda row: (row.seconds, row.id))
    return ordered[rank::world_size]


def _some(rows: list[Spectrum], most: int) -> list[Spectrum]:
    """At most so many of each language, the first by id."""
    taken: dict[str, int] = {}
    chosen = []
    for row in sorted(rows, key=lambda row: row.id):
        taken[row.language] = taken.get(row.language, 0) + 1
        if taken[row.language] <= most:
            chosen.append(row)
    return chosen


def _save(output: str, network: Network, optimizers: Optimizers, progress: Progress, identity: dict[str, Any]) -> None:
    state = {
        "network": network.state_dict(),
        "optimizers": [part.state_dict() for part in optimizers.parts],
        "progress": asdict(progress),
        "identity": identity,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # One file, written in one piece: it is there whole or not at all.
    storage.write_bytes(storage.join(output, CHECKPOINT), buffer.getvalue())


def _restore(
    output: str, network: Network, optimizers: Optimizers, identity: dict[str, Any], device: torch.device
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
    network.load_state_dict(state["network"])
    for part, known in zip(optimizers.parts, state["optimizers"], strict=True):
        part.load_state_dict(known)
    return Progress(**state["progress"])

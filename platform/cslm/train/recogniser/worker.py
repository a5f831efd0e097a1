"""Training of the recogniser on a Ray cluster: the trainer that starts the ranks, and what each rank does."""

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from cslm import storage
from cslm.data import spectra
from cslm.data.spectra import Spectrum
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.train import data_parallel
from cslm.train.optimizers import Optimizers
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.feed import SpectraFeed
from cslm.train.recogniser.loop import FitSection, Progress, error_rates, train
from cslm.train.reporter import Reporter

RESULT = "recogniser.json"
WEIGHTS = "recogniser.safetensors"


def run(settings: dict[str, Any], *, use_gpu: bool) -> dict[str, Any]:
    """Train with Ray Train and return the figures of the finished training; the weights lie in `output`/WEIGHTS.

    `settings` holds plain values only: `fit`, `augment` (sections as dicts), `shape`, `dropout`, `characters`,
    `languages`, `train` and `dev` (names of shards), `output`, `identity`, `tracking` (handle of the run).
    """
    section = FitSection(**settings["fit"])
    workers = {"num_workers": section.num_workers, "max_failures": section.max_failures}
    return data_parallel.run(_rank_main, settings, section, **workers, result=RESULT, use_gpu=use_gpu)


def _rank_main(settings: dict[str, Any]) -> None:
    section = FitSection(**settings["fit"])
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = data_parallel.device()
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
    progress = data_parallel.restore(output, network, optimizers, Progress, settings["identity"], device)
    reporter = Reporter(
        settings["tracking"],
        section.max_steps,
        progress.step,
        rate=("throughput/audio_s_per_s", "audio s/s"),
        fraction="progress/fraction",
    )

    def checkpoint(progress: Progress) -> None:
        if rank == 0:
            data_parallel.save(output, network, optimizers, progress, settings["identity"])

    def evaluate() -> dict[str, float]:
        return error_rates(network, alphabet, dev, settings["languages"], device)

    progress = train(
        network, optimizers, feed, evaluate, section, progress, device, report=reporter, checkpoint=checkpoint
    )
    if rank == 0:
        data_parallel.write_weights(storage.join(output, WEIGHTS), network)
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

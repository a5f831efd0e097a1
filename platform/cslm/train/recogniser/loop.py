"""The training loop of the recogniser: two CTC losses, gradients averaged over the ranks, a step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cslm.config import setting
from cslm.data.spectra import Spectrum
from cslm.gang import GangSection
from cslm.speech import ctc
from cslm.speech.recogniser import features
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Layout, Network
from cslm.speech.transcript import edit_counts
from cslm.train.optimizers import Optimizers, reduce_gradients
from cslm.train.recogniser.feed import Batch, SpectraFeed, lay_out


class FitSection(GangSection):
    """Steps, batches, learning rate and the workers that train the recogniser."""

    max_steps: int = setting(1200, "optimizer steps at most", ge=1)
    max_minutes: float | None = setting(
        None, "training time at most; the learning rate falls to it. Two runs are alike without it only", gt=0
    )
    patience: int = setting(5, "evaluations without a better error rate after which training ends", ge=1)
    batch_s: float = setting(80.0, "audio of one step, over all workers", unit="s", gt=0)
    short_bias: float = setting(
        1.0, "utterances of half the median length are drawn 2 ** short_bias times in an epoch; 0: all alike", ge=0
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "muon", "muon: Muon for the matrices of the blocks, AdamW for the rest"
    )
    learning_rate: float = setting(2e-3, "peak learning rate of AdamW", gt=0)
    muon_learning_rate: float = setting(0.02, "peak learning rate of Muon", gt=0)
    warmup_steps: int = setting(100, "steps in which the learning rate rises", ge=1)
    weight_decay: float = setting(0.01, "weight decay", ge=0)
    max_grad_norm: float = setting(5.0, "gradient norm above which the gradient is scaled down", gt=0)
    middle_weight: float = setting(0.3, "share of the loss that is taken at the middle, whose frames become units")
    precision: Literal["bf16", "fp32"] = setting("bf16", "of the products; weights are kept in fp32")
    seed: int = setting(0, "of weights, order and augmentation", ge=0)
    num_workers: int = setting(2, "training workers (one GPU each, or one CPU core each)", ge=1)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "auto takes GPUs where the cluster has any or may start some"
    )
    log_every_steps: int = setting(50, "steps between two lines of figures", ge=1)
    evaluate_every_steps: int = setting(500, "steps between two evaluations on the dev split", ge=1)
    evaluate_utterances: int = setting(300, "utterances of each language that are evaluated at most", ge=1)
    checkpoint_every_steps: int = setting(500, "steps between two checkpoints", ge=1)
    max_failures: int = setting(3, "worker failures after which the job gives up", ge=0)


@dataclass
class Progress:
    """Where training stands; saved with every checkpoint."""

    step: int = 0
    audio_s: float = 0.0
    train_s: float = 0.0
    cpu_s: float = 0.0  # of the processes of all ranks
    loss: float = float("nan")
    best_error: float = float("inf")
    since_best: int = 0
    ended: bool = False
    errors: dict[str, float] = field(default_factory=dict)  # character error rate by language, when last evaluated


def train(
    network: Network,
    optimizers: Optimizers,
    feed: SpectraFeed,
    evaluate: Callable[[], dict[str, float]],
    section: FitSection,
    progress: Progress,
    device: torch.device,
    *,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[Progress], None],
) -> Progress:
    """Train until a budget is used up or the error rate no longer falls.

    All callables are called on every rank at the same steps; `evaluate` gives the character error rate by language.
    """
    window_loss, window_audio_s, window_wait_s, window_start_s = 0.0, 0.0, 0.0, time.perf_counter()
    before_s, started_s, window_steps = progress.train_s, time.perf_counter(), 0
    before_cpu_s, started_cpu_s = progress.cpu_s, time.process_time()
    while not progress.ended:
        asked_s = time.perf_counter()
        batch = feed.batch(progress.step)
        window_wait_s += time.perf_counter() - asked_s
        # What all ranks must agree on: frames of the step, and the time that rank 0 has seen.
        cpu_s = time.process_time() - started_cpu_s
        shared = torch.tensor([batch.num_frames, 0.0, cpu_s], dtype=torch.float64, device=device)
        if dist.get_rank() == 0:
            shared[1] = before_s + time.perf_counter() - started_s
        dist.all_reduce(shared)
        num_frames, progress.train_s = int(shared[0]), float(shared[1])
        progress.cpu_s = before_cpu_s + float(shared[2])
        loss = losses(network, batch, device, section) / num_frames
        loss.backward()  # type: ignore[no-untyped-call]
        window_loss += reduce_gradients(network, loss.detach())
        torch.nn.utils.clip_grad_norm_(network.parameters(), section.max_grad_norm)
        done = progress.step / section.max_steps
        if section.max_minutes is not None:
            done = max(done, progress.train_s / (60 * section.max_minutes))
        scale = min(1.0, (progress.step + 1) / section.warmup_steps) * max(1 - done, 1e-3)
        optimizers.step(scale)
        progress.step += 1
        progress.audio_s += num_frames / 50
        window_audio_s += num_frames / 50
        window_steps += 1
        progress.ended = progress.step >= section.max_steps or done >= 1
        metrics: dict[str, float] = {}
        if progress.ended or progress.step % section.evaluate_every_steps == 0:
            metrics |= _evaluated(evaluate, section, progress)
        if metrics or progress.step == 1 or progress.step % section.log_every_steps == 0:
            elapsed_s = time.perf_counter() - window_start_s
            progress.loss = window_loss / window_steps
            metrics["loss/total"] = progress.loss
            metrics["optimizer/learning_rate"] = section.learning_rate * scale
            metrics["throughput/audio_s_per_s"] = window_audio_s / elapsed_s
            metrics["time/data_wait_fraction"] = window_wait_s / elapsed_s
            metrics["progress/fraction"] = 1.0 if progress.ended else done
            report(progress.step, metrics)
            window_loss, window_audio_s, window_wait_s, window_start_s = 0.0, 0.0, 0.0, time.perf_counter()
            window_steps = 0
        if not progress.ended and progress.step % section.checkpoint_every_steps == 0:
            checkpoint(progress)
    return progress


def losses(network: Network, batch: Batch, device: torch.device, section: FitSection) -> Tensor:
    """The sum over the clips of both CTC losses, each by its share."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=section.precision == "bf16"):
        middle_TV, end_TV = network(*batch.inputs(device))
    middle, end = (ctc_loss(logits_TV, batch.layout, batch.targets) for logits_TV in (middle_TV, end_TV))
    return section.middle_weight * middle + (1 - section.middle_weight) * end


def ctc_loss(logits_TV: Tensor, layout: Layout, targets: Sequence[Tensor]) -> Tensor:
    """Sum of the CTC losses of clips that lie behind each other; texts too long for their clip count nothing."""
    starts_B, lengths_B = torch.tensor(layout.starts), torch.tensor(layout.lengths)
    # One gather for all clips: taking them one by one would cost a whole-sized gradient for each.
    steps_F1 = torch.arange(max(layout.lengths))[:, None]
    index_FB = (starts_B + torch.minimum(steps_F1, lengths_B - 1)).to(logits_TV.device)
    log_probs_TV = logits_TV.float().log_softmax(1)
    log_probs_FBV = log_probs_TV.index_select(0, index_FB.flatten()).view(*index_FB.shape, -1)
    return F.ctc_loss(
        log_probs_FBV,
        torch.cat(list(targets)).to(logits_TV.device),
        lengths_B,
        torch.tensor([len(target) for target in targets]),
        blank=ctc.BLANK,
        reduction="sum",
        zero_infinity=True,
    )


@torch.no_grad()
def error_rates(
    network: Network, alphabet: Alphabet, spectra: Sequence[Spectrum], languages: Sequence[str], device: torch.device
) -> dict[str, float]:
    """Character error rate by greedy decoding, by language, over the utterances of all ranks."""
    counts = torch.zeros(len(languages), 2, dtype=torch.float64, device=device)
    network.eval()
    for first in range(0, len(spectra), 16):
        some = spectra[first : first + 16]
        clips = [features.normalise(torch.from_numpy(spectrum.log_mel.astype("float32"))) for spectrum in some]
        batch = lay_out(clips, [], network.gap)
        logits_TV = network(*batch.inputs(device))[1]
        for spectrum, part_FV in zip(some, batch.layout.split(logits_TV.float().cpu()), strict=True):
            edits = edit_counts(spectrum.text, alphabet.read(ctc.greedy(part_FV.numpy())))
            counts[languages.index(spectrum.language)] += torch.tensor([edits.character_errors, edits.characters])
    network.train()
    dist.all_reduce(counts)
    return {
        language: errors / characters
        for language, (errors, characters) in zip(languages, counts.tolist(), strict=True)
        if characters
    }


def _evaluated(evaluate: Callable[[], dict[str, float]], section: FitSection, progress: Progress) -> dict[str, float]:
    progress.errors = evaluate()
    if not progress.errors:
        return {}
    mean = sum(progress.errors.values()) / len(progress.errors)
    progress.since_best = 0 if mean < progress.best_error else progress.since_best + 1
    progress.best_error = min(mean, progress.best_error)
    progress.ended |= progress.since_best >= section.patience
    return {f"eval/asr/{language}/cer": error for language, error in progress.errors.items()}

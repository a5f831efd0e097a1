"""The training loop of the speech decoder: durations, mel and vocoder in each step, gradients summed over the ranks.

The parts share nothing but the clips, so one loop trains them all; the vocoder learns from real mels.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from cslm.config import setting
from cslm.gang import GangSection
from cslm.speech.decoder.networks import Networks
from cslm.train.decoder import losses
from cslm.train.decoder.feed import Batch, ClipFeed
from cslm.train.optimizers import Optimizers, reduce_gradients


class FitSection(GangSection):
    """Steps, batches, learning rates and the workers that train the decoder."""

    max_steps: int = setting(4000, "optimizer steps at most", ge=1)
    max_minutes: float | None = setting(
        None, "training time at most; the learning rate falls to it. Two runs are alike without it only", gt=0
    )
    batch_s: float = setting(40.0, "speech of one step, over all workers, for durations and mel", unit="s", gt=0)
    num_crops: int = setting(12, "crops of sound of one step, over all workers, for the vocoder", ge=0)
    crop_frames: int = setting(64, "length of a crop in mel frames, of which there are 100 a second", ge=8)
    optimizer: Literal["adamw", "muon"] = setting(
        "muon", "muon: Muon for the matrices of the blocks, AdamW for the rest"
    )
    learning_rate: float = setting(3e-3, "peak learning rate of AdamW", gt=0)
    muon_learning_rate: float = setting(0.02, "peak learning rate of Muon", gt=0)
    warmup_steps: int = setting(50, "steps in which the learning rate rises", ge=1)
    weight_decay: float = setting(0.01, "weight decay", ge=0)
    max_grad_norm: float = setting(5.0, "gradient norm of a part above which its gradient is scaled down", gt=0)
    duration_weight: float = setting(0.2, "weight of the durations' loss; that of the mean mel's is 1", ge=0)
    flow_weight: float = setting(0.5, "weight of the flow's loss", ge=0)
    precision: Literal["bf16", "fp32"] = setting("bf16", "of the products; weights are kept in fp32")
    seed: int = setting(0, "of weights, order, crops and noise", ge=0)
    num_workers: int = setting(2, "training workers (one GPU each, or one CPU core each)", ge=1)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "auto takes GPUs where the cluster has any or may start some"
    )
    log_every_steps: int = setting(50, "steps between two lines of figures", ge=1)
    evaluate_every_steps: int = setting(1000, "steps between two looks at the held-out loss", ge=1)
    checkpoint_every_steps: int = setting(500, "steps between two checkpoints", ge=1)
    max_failures: int = setting(3, "worker failures after which the job gives up", ge=0)


@dataclass
class Progress:
    """Where training stands; saved with every checkpoint."""

    step: int = 0
    audio_s: float = 0.0
    train_s: float = 0.0
    cpu_s: float = 0.0  # of the processes of all ranks
    losses: dict[str, float] = field(default_factory=dict)  # by part, since they were last told
    held_out: dict[str, float] = field(default_factory=dict)
    ended: bool = False


def train(
    networks: Networks,
    optimizers: Optimizers,
    feed: ClipFeed,
    evaluate: Callable[[], dict[str, float]],
    section: FitSection,
    progress: Progress,
    device: torch.device,
    *,
    with_flow: bool,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[Progress], None],
) -> Progress:
    """Train until a budget is used up. All callables are called on every rank at the same steps.

    `evaluate` gives held-out losses by part. Without `with_flow` the flow is left as it is, and costs nothing.
    """
    window: dict[str, float] = {}
    window_audio_s, window_wait_s, window_start_s, window_steps = 0.0, 0.0, time.perf_counter(), 0
    before_s, started_s = progress.train_s, time.perf_counter()
    before_cpu_s, started_cpu_s = progress.cpu_s, time.process_time()
    while not progress.ended:
        asked_s = time.perf_counter()
        batch = feed.batch(progress.step)
        window_wait_s += time.perf_counter() - asked_s
        # What all ranks must agree on: how much there is, and the time that rank 0 has seen.
        counts = [float(batch.clips.mask_T1.sum()), float(batch.clips.mask_U1.sum()), len(batch.crops_NT)]
        shared = torch.tensor(
            [*counts, batch.audio_s, 0.0, time.process_time() - started_cpu_s], dtype=torch.float64, device=device
        )
        if dist.get_rank() == 0:
            shared[4] = before_s + time.perf_counter() - started_s
        dist.all_reduce(shared)
        num_frames, num_units, num_crops, audio_s, progress.train_s, cpu_s = shared.tolist()
        progress.cpu_s = before_cpu_s + cpu_s
        parts = _losses(networks, batch, section, device, progress.step, with_flow)
        parts = {
            name: loss / {"durations": num_units, "vocoder": max(num_crops, 1)}.get(name, num_frames)
            for name, loss in parts.items()
        }
        weights = {"durations": section.duration_weight, "flow": section.flow_weight}
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in parts.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        told = torch.stack([total.detach(), *(loss.detach() for loss in parts.values())])
        for name, value in zip(("total", *parts), _reduced(networks, told), strict=True):
            window[name] = window.get(name, 0.0) + value
        for part in (networks.durations, networks.acoustic, networks.vocoder):
            torch.nn.utils.clip_grad_norm_(part.parameters(), section.max_grad_norm)
        done = progress.step / section.max_steps
        if section.max_minutes is not None:
            done = max(done, progress.train_s / (60 * section.max_minutes))
        scale = min(1.0, (progress.step + 1) / section.warmup_steps) * max(1 - done, 1e-3)
        optimizers.step(scale)
        progress.step += 1
        progress.audio_s += audio_s
        window_audio_s += audio_s
        window_steps += 1
        progress.ended = progress.step >= section.max_steps or done >= 1
        metrics: dict[str, float] = {}
        if progress.ended or progress.step % section.evaluate_every_steps == 0:
            progress.held_out = evaluate()
            metrics |= {f"eval/loss/{name}": value for name, value in progress.held_out.items()}
        if metrics or progress.step == 1 or progress.step % section.log_every_steps == 0:
            elapsed_s = time.perf_counter() - window_start_s
            progress.losses = {name: value / window_steps for name, value in window.items()}
            metrics |= {f"loss/{name}": value for name, value in progress.losses.items()}
            metrics["optimizer/learning_rate"] = section.learning_rate * scale
            metrics["throughput/audio_s_per_s"] = window_audio_s / elapsed_s
            metrics["time/data_wait_fraction"] = window_wait_s / elapsed_s
            metrics["progress/fraction"] = 1.0 if progress.ended else done
            report(progress.step, metrics)
            window, window_audio_s, window_wait_s, window_steps = {}, 0.0, 0.0, 0
            window_start_s = time.perf_counter()
        if not progress.ended and progress.step % section.checkpoint_every_steps == 0:
            checkpoint(progress)
    return progress


@torch.no_grad()
def held_out(networks: Networks, batches: Sequence[Batch], device: torch.device, with_flow: bool) -> dict[str, float]:
    """Losses by part over the batches of all ranks."""
    names = ("durations", "mean", "flow", "vocoder") if with_flow else ("durations", "mean", "vocoder")
    sums = torch.zeros(len(names) + 3, dtype=torch.float64, device=device)
    networks.eval()
    for number, batch in enumerate(batches):
        parts = _losses(networks, batch, FitSection(precision="fp32"), device, number, with_flow)
        sums[: len(names)] += torch.stack([parts.get(name, torch.zeros(())).double().to(device) for name in names])
        counts = [float(batch.clips.mask_T1.sum()), float(batch.clips.mask_U1.sum()), len(batch.crops_NT)]
        sums[len(names) :] += torch.tensor(counts, dtype=torch.float64, device=device)
    networks.train()
    dist.all_reduce(sums)
    num_frames, num_units, num_crops = sums[len(names) :].clamp(min=1).tolist()
    over = {"durations": num_units, "vocoder": num_crops}
    return {name: value / over.get(name, num_frames) for name, value in zip(names, sums.tolist(), strict=False)}


def _losses(
    networks: Networks, batch: Batch, section: FitSection, device: torch.device, step: int, with_flow: bool
) -> dict[str, Tensor]:
    """Sums over frames, units or crops of the losses of all parts that are trained."""
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed((section.seed * 1_000_003 + step) * 4_096 + rank)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=section.precision == "bf16")
    with autocast:
        found = losses.of_units(networks, batch.clips.to(device), generator, with_flow)
    if len(batch.crops_NT):
        crops_NT = batch.crops_NT.to(device)
        mel = networks.shape.mel
        mel_NFM = mel.log_mel(crops_NT)
        with autocast:
            made_NT = networks.vocoder(mel_NFM)
        found["vocoder"] = losses.of_samples(made_NT.float(), crops_NT, mel, mel_NFM) * len(crops_NT)
    return found


def _reduced(networks: Networks, told: Tensor) -> list[float]:
    """Sum gradients over the ranks, and the losses that are told."""
    reduce_gradients(networks, told[0])
    if dist.get_world_size() > 1:
        dist.all_reduce(told)
    return told.tolist()

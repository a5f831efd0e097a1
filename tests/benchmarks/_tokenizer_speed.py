"""Speed of every kind of tokenizer at its published size: alone, in buckets of like length, in corpus order, in bf16.

Random weights: they cost what trained ones cost. What the codes lose in bf16 depends on the weights, so those shares
are an indication only. All ways run in turns in one process on the same audio; the least time of the turns counts.
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cslm.speech.tokenizer import Codes, SpeechTokenizer, encode_all, plan_batches
from cslm.speech.tokenizers import HubertSection, KMeansSection, MimiSection
from cslm.speech.tokenizers.hubert import HubertTokenizer
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.speech.tokenizers.mimi import MimiTokenizer
from cslm.speech.tokenizers.s3 import VARIANTS, S3Tokenizer
from cslm.speech.tokenizers.saved import Saved
from tests.data import networks, sounds

Clips = list[NDArray[np.float32]]
_HUBERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 9,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": (512,) * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
_MIMI = {
    "num_filters": 64,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "codebook_size": 128,
    "codebook_dim": 256,
    "vector_quantization_hidden_dimension": 256,
    "upsample_groups": 512,
    "sliding_window": 250,
}


def mixed_lengths(total_s: float) -> list[float]:
    """Seconds of clips: nine of ten have 1 to 4, one of ten has 8 to 12."""
    draw, lengths = random.Random(3), list[float]()
    while sum(lengths) < total_s:
        lengths.append(draw.uniform(8, 12) if draw.random() < 0.1 else draw.uniform(1, 4))
    return lengths


def saved_kinds(folder: Path, names: list[str]) -> dict[str, Saved]:
    """Each kind that is a network, in fp32."""
    made: dict[str, Saved] = {}
    networks.S3_WIDTH = 1280
    for variant in VARIANTS:
        name = variant.replace("speech_tokenizer", "s3")
        if name in names:
            made[name] = S3Tokenizer.pack(variant, networks.s3_state(variant))
    if "hubert_base" in names:
        model = networks.hubert_folder(folder / "hubert", **_HUBERT_BASE)
        section = HubertSection(model=str(model), layer=9, codebook_size=100)
        made["hubert_base"] = HubertTokenizer.make(section, [sounds.waveform(seed, 2) for seed in range(4)])
    if "mimi" in names:
        made["mimi"] = MimiTokenizer.make(MimiSection(model=str(networks.mimi_folder(folder / "mimi", **_MIMI))))
    return made


def padded_in_order(tokenizer: Any, clips: Clips, size: int = 8) -> None:
    """What a plain loop over the corpus does: batches of `size` as they come, padded to their longest."""
    with torch.no_grad():
        for start in range(0, len(clips), size):
            tokenizer._encode(clips[start : start + size])


def bucketed(tokenizer: Any, clips: Clips, batch_s: float) -> Codes:
    """Batches of clips of like length, padded; the codes of all frames of the clips."""
    found: dict[int, Codes] = {}
    with torch.no_grad():
        for batch in plan_batches([len(clip) / tokenizer.sample_rate_hz for clip in clips], batch_s):
            found.update(zip(batch, tokenizer._encode([clips[i] for i in batch]), strict=True))
    return np.concatenate([found[i] for i in range(len(clips))])


def compare(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Seconds of each way, the least of some turns; a first turn warms up where there are several."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started_s)
    return {name: min(taken) for name, taken in times.items()}


def alone(tokenizer: SpeechTokenizer, clips: Clips) -> Codes:
    """Each clip by itself; the codes of all frames of the clips."""
    return np.concatenate([tokenizer.encode([clip])[0] for clip in clips])


def run(*, quick: bool, threads: int, device: str) -> dict[str, dict[str, float]]:
    """Measure, print the table, and give the ratios of each tokenizer."""
    kinds = {
        "s3_v1": S3Tokenizer,
        "s3_v1_25hz": S3Tokenizer,
        "s3_v2_25hz": S3Tokenizer,
        "s3_v3_25hz": S3Tokenizer,
        "hubert_base": HubertTokenizer,
        "mimi": MimiTokenizer,
    }
    names = ["s3_v1", "hubert_base", "mimi"] if quick else list(kinds)
    turns = 1 if quick else 3
    on_gpu = device != "cpu"
    lengths = [1.5, 4.0, 1.5] if quick else mixed_lengths(90.0)
    if on_gpu:
        lengths *= 20
    ratios: dict[str, dict[str, float]] = {}
    title = f"share of real time, {sum(lengths):.0f} s of clips, {threads} threads, {device}"
    table = Table(
        "tokenizer",
        "as the job does",
        "alone",
        "buckets",
        "in order",
        "bf16",
        "same in buckets",
        "in bf16",
        title=title,
    )

    fitted = KMeansTokenizer.fit([sounds.waveform(seed, 10) for seed in range(8)], KMeansSection())
    clips = [sounds.waveform(seed, seconds) for seed, seconds in enumerate(lengths)]
    taken = compare({"job": lambda: encode_all(fitted, clips)}, turns + 1)["job"] / sum(lengths)
    ratios["kmeans"] = {"share_of_real_time": round(taken, 5)}
    table.add_row("kmeans", f"{taken:.5f}", *[""] * 6)

    with tempfile.TemporaryDirectory() as folder:
        for name, saved in saved_kinds(Path(folder), names).items():
            tokenizer, reduced = (
                kinds[name](saved.with_settings(precision=precision)).to(device) for precision in ("fp32", "bf16")
            )
            clips = [sounds.waveform(seed, seconds, tokenizer.sample_rate_hz) for seed, seconds in enumerate(lengths)]
            batch_s = tokenizer.batch_s
            for one in (tokenizer, reduced):
                one.encode(clips[:1])
            ways: dict[str, Callable[[], Any]] = {
                "job": lambda tokenizer=tokenizer, clips=clips: encode_all(tokenizer, clips),
                "buckets": lambda tokenizer=tokenizer, clips=clips, batch_s=batch_s: bucketed(
                    tokenizer, clips, batch_s
                ),
                "in order": lambda tokenizer=tokenizer, clips=clips: padded_in_order(tokenizer, clips),
                "bf16": lambda reduced=reduced, clips=clips: encode_all(reduced, clips),
            }
            if on_gpu:
                ways["alone"] = lambda tokenizer=tokenizer, clips=clips: alone(tokenizer, clips)
            taken_s = compare(ways, turns)
            taken_s.setdefault("alone", taken_s["job"])
            some = clips[:20]
            expected = alone(tokenizer, some)
            same = {
                "in_buckets": float((bucketed(tokenizer, some, batch_s) == expected).mean()),
                "in_bf16": float((alone(reduced, some) == expected).mean()),
            }
            rate = {way: seconds / sum(lengths) for way, seconds in taken_s.items()}
            shown = [f"{rate[way]:.5f}" for way in ("job", "alone", "buckets", "in order", "bf16")]
            table.add_row(name, *shown, *(f"{share:.2%}" for share in same.values()))
            ratios[name] = {
                "share_of_real_time": round(rate["job"], 6),
                "in_order_over_job": round(rate["in order"] / rate["job"], 3),
                "buckets_over_alone": round(rate["buckets"] / rate["alone"], 3),
                "fp32_over_bf16": round(rate["job"] / rate["bf16"], 3),
                **{f"same_codes_{way}": round(share, 5) for way, share in same.items()},
            }
    Console(width=120).print(table)
    return ratios

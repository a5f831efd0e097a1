"""Small decoders with random weights, and clips to train one on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cslm.data.clips import Clip
from cslm.speech.decoder import saved
from cslm.speech.decoder.acoustic import AcousticShape
from cslm.speech.decoder.durations import DurationShape
from cslm.speech.decoder.griffin_lim import UnitMeans
from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.networks import DecoderShape, Networks
from cslm.speech.decoder.vocoder import VocoderShape
from tests.data import sounds

CODEBOOK = 12
SPEAKERS = ("ann", "bob")
MEL = MelShape()


def shape(vocoder: str = "istft", frame_rate_hz: float = 25.0, num_blocks: int = 2) -> DecoderShape:
    return DecoderShape(
        CODEBOOK,
        frame_rate_hz,
        MEL,
        DurationShape(width=16, hidden=24, num_blocks=1, kernel=3),
        AcousticShape(24, 32, num_blocks, flow_width=24, flow_hidden=32, flow_blocks=1, kernel=3),
        VocoderShape(vocoder, width=32, hidden=48, num_blocks=2, kernel=3),
    )


def networks(of: DecoderShape, seed: int = 0) -> Networks:
    """Every part does something, which freshly made ones do not."""
    torch.manual_seed(seed)
    bands = of.mel.num_bands
    voices = torch.cat((torch.randn(2, bands) - 5, torch.rand(2, bands) + 0.5), 1)
    made = Networks(of, voices)
    for head in (made.durations.head, made.acoustic.flow.leave):
        torch.nn.init.normal_(head.weight, std=0.3)
    return made


def folder(path: Path, kind: str = "flow", flow_steps: int = 0, tokenizer: str = "of-these", **changes: Any) -> Path:
    """A saved decoder."""
    of = shape(**changes)
    made = networks(of)
    tensors = made.state_dict()
    if kind == "griffin_lim":
        patches = torch.randn(CODEBOOK, of.mels_a_frame * of.mel.num_bands)
        means = UnitMeans(of.mel, patches, torch.randint(1, 4, (CODEBOOK,)).float())
        tensors = {**means.tensors(), "voices_SV": made.voices_SV}
    facts = {"speakers": list(SPEAKERS), "default_speaker": "bob", "network": of.config()}
    settings = {"flow_steps": flow_steps, "temperature": 0.7}
    saved.save(str(path), tensors, kind=kind, tokenizer=tokenizer, settings=settings, **facts)
    return path


def units(count: int, seed: int = 0) -> np.ndarray:
    """Merged units: no two neighbours alike."""
    steps = np.random.default_rng(seed).integers(1, CODEBOOK, size=count)
    return np.cumsum(steps) % CODEBOOK


def clips(count: int = 8) -> list[Clip]:
    """Tones whose pitch is told by their units, in two voices of different loudness."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        merged = units(int(rng.integers(8, 16)), number)
        lasting = rng.integers(1, 4, size=len(merged))
        tones = [
            sounds.tone(0.04 * frames, hz=200.0 + 150 * unit) for unit, frames in zip(merged, lasting, strict=True)
        ]
        loud = 0.3 + 0.5 * (number % 2)
        samples = (32767 * loud * np.concatenate(tones)).astype(np.int16)
        facts = {"id": f"u{number:02}", "language": "en", "speaker": SPEAKERS[number % 2], "text": "some words"}
        found.append(
            Clip(
                **facts,
                units=merged.astype(np.uint16),
                durations=lasting.astype(np.uint16),
                samples=samples,
                rate_hz=16_000,
            )
        )
    return found

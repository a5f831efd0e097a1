"""A speech decoder for tests: the untrained kind, whose units sound like nothing in particular."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cslm.speech.decoder import saved
from cslm.speech.decoder.griffin_lim import UnitMeans
from cslm.speech.decoder.mel import MelShape


def decoder_folder(
    path: Path, tokenizer: str, num_units: int, frame_rate_hz: float = 25.0, speakers: Sequence[str] = ("ann", "bob")
) -> str:
    """A decoder of units of a tokenizer, which all last one frame."""
    mel = MelShape()
    random = torch.Generator().manual_seed(0)
    patch = (mel.frames_of(frame_rate_hz) or 1) * mel.num_bands
    means = UnitMeans(mel, torch.randn(num_units, patch, generator=random), torch.ones(num_units))
    voices_SV = torch.cat(
        [torch.full((len(speakers), mel.num_bands), -4.0), torch.ones(len(speakers), mel.num_bands)], 1
    )
    network = {"codebook_size": num_units, "frame_rate_hz": frame_rate_hz, "mel": mel.config()}
    saved.save(
        str(path),
        {**means.tensors(), "voices_SV": voices_SV},
        kind="griffin_lim",
        tokenizer=tokenizer,
        speakers=list(speakers),
        default_speaker=speakers[0],
        settings={},
        network=network,
    )
    return str(path)

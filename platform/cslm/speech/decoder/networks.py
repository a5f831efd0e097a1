"""The three networks of a trained decoder, the voices that they know, and what passes between them.

Mel frames are normalised by the voice: each band by its mean and deviation over all that the voice says. So what is
left to learn is what is said, and a voice is asked for by these numbers.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cslm.speech.decoder import vocoder
from cslm.speech.decoder.acoustic import Acoustic, AcousticShape
from cslm.speech.decoder.durations import DurationPredictor, DurationShape
from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.vocoder import VocoderShape

# Deviation of what the mean leaves, about: the flow is given it with unit variance.
DIFFERENCE_SCALE = 0.5


@dataclass(frozen=True)
class DecoderShape:
    """All that decides the networks beside their weights."""

    codebook_size: int
    frame_rate_hz: float
    mel: MelShape = field(default_factory=MelShape)
    durations: DurationShape = field(default_factory=DurationShape)
    acoustic: AcousticShape = field(default_factory=AcousticShape)
    vocoder: VocoderShape = field(default_factory=VocoderShape)

    @classmethod
    def unpack(cls, config: dict[str, Any]) -> "DecoderShape":
        """The shape of what `config` gave."""
        return cls(
            config["codebook_size"],
            config["frame_rate_hz"],
            MelShape(**config["mel"]),
            DurationShape(**config["durations"]),
            AcousticShape(**config["acoustic"]),
            VocoderShape(**config["vocoder"]),
        )

    def config(self) -> dict[str, Any]:
        """Plain values."""
        parts = {name: vars(getattr(self, name)) for name in ("mel", "durations", "acoustic", "vocoder")}
        return {"codebook_size": self.codebook_size, "frame_rate_hz": self.frame_rate_hz, **parts}

    @property
    def mels_a_frame(self) -> int:
        """Mel frames in a frame of units."""
        frames = self.mel.frames_of(self.frame_rate_hz)
        if frames is None:
            raise ValueError(f"a frame of units must last a whole number of mel frames, found {self.frame_rate_hz} Hz")
        return frames


class Networks(nn.Module):
    """Durations, mel and samples, for the voices (S, 2 * bands): means of the bands, then their deviations."""

    def __init__(self, shape: DecoderShape, voices_SV: Tensor) -> None:
        super().__init__()
        self.shape = shape
        voice_size = 2 * shape.mel.num_bands
        self.durations = DurationPredictor(shape.durations, shape.codebook_size, voice_size)
        patch = shape.mels_a_frame * shape.mel.num_bands
        self.acoustic = Acoustic(shape.acoustic, shape.codebook_size, voice_size, patch)
        self.vocoder = vocoder.KINDS[shape.vocoder.kind](shape.vocoder, shape.mel)
        self.voices_SV: Tensor
        self.register_buffer("voices_SV", voices_SV)

    @property
    def gap(self) -> int:
        """Frames that must lie between two clips."""
        return max(self.shape.acoustic.kernel, self.shape.durations.kernel) // 2

    def told(self, voice_NV: Tensor) -> Tensor:
        """Voices as the networks are told of them: relative to those that are known."""
        mean_V = self.voices_SV.mean(0)
        deviation_V = self.voices_SV.std(0, correction=0).clamp(min=0.1)
        return ((voice_NV - mean_V) / deviation_V).clamp(-4, 4)

    def normalise(self, mel_BFM: Tensor, voice_BFV: Tensor) -> Tensor:
        """Log mel (B, F, M) in voices (B, F or 1, V) -> normalised."""
        mean_BFM, deviation_BFM = voice_BFV.chunk(2, -1)
        return (mel_BFM - mean_BFM) / deviation_BFM

    def restore(self, patches_BTP: Tensor, voice_1V: Tensor) -> Tensor:
        """Normalised patches (B, T, P) -> log mel frames (B, F, M)."""
        mel_BFM = patches_BTP.reshape(len(patches_BTP), -1, self.shape.mel.num_bands)
        mean_1M, deviation_1M = voice_1V.chunk(2, -1)
        return mel_BFM * deviation_1M + mean_1M

    @torch.no_grad()
    def mel(self, codes_BT: Tensor, voice_1V: Tensor, noise_BTP: Tensor, num_steps: int) -> Tensor:
        """Codes of frames (B, T) in a voice -> log mel (B, F, M); the mean alone for no steps of the flow."""
        known_BTC, mean_BTP = self.acoustic(codes_BT, self.told(voice_1V)[None])
        if num_steps:
            difference_BTP = self.acoustic.flow.difference(noise_BTP, known_BTC, mean_BTP, num_steps)
            mean_BTP = mean_BTP + DIFFERENCE_SCALE * difference_BTP
        return self.restore(mean_BTP, voice_1V)

"""What the speech decoder is to be: its kind and the sizes of its networks, by name."""

from dataclasses import replace
from typing import Literal

from cslm.config import Section, setting
from cslm.errors import ConfigError
from cslm.speech.decoder.acoustic import AcousticShape
from cslm.speech.decoder.durations import DurationShape
from cslm.speech.decoder.mel import FRAME_RATE_HZ, MelShape
from cslm.speech.decoder.networks import DecoderShape
from cslm.speech.decoder.vocoder import VocoderShape

_DURATIONS = {"small": DurationShape(), "base": DurationShape(width=256, hidden=1024, num_blocks=5)}
_ACOUSTICS = {
    "small": AcousticShape(192, 384, 5, flow_width=192, flow_hidden=384, flow_blocks=3, kernel=9),
    "base": AcousticShape(512, 2048, 10, flow_width=512, flow_hidden=2048, flow_blocks=6, kernel=9),
}
_VOCODERS = {
    ("istft", "small"): VocoderShape("istft", width=128, hidden=384, num_blocks=4),
    ("istft", "base"): VocoderShape("istft", width=512, hidden=1536, num_blocks=8),
    ("hifigan", "small"): VocoderShape("hifigan", width=128),
    ("hifigan", "base"): VocoderShape("hifigan", width=512),
}


class DecoderSection(Section):
    """Which decoder."""

    kind: Literal["flow", "griffin_lim"] = setting(
        "flow", "flow: trained networks; griffin_lim: the mean spectrum of every unit, in seconds and without training"
    )
    size: Literal["small", "base"] = setting("small", "of the networks: small for CPUs, base for GPUs")
    vocoder: Literal["istft", "hifigan"] = setting(
        "istft",
        "istft: inverse Fourier transform of a predicted spectrum, three times as quick; hifigan: convolutions",
    )
    flow_steps: int = setting(
        0, "steps of the flow from noise to mel; 0: the mean mel alone, and the flow is not trained", ge=0, le=64
    )
    temperature: float = setting(0.7, "deviation of the noise that the flow starts from", ge=0, le=2)
    sample_rate_hz: int = setting(16_000, "of the sound that is made, a multiple of 100", unit="Hz", ge=8_000)

    def shape(self, codebook_size: int, frame_rate_hz: float) -> DecoderShape:
        """The networks' shape for a tokenizer. Raises ConfigError for rates that do not fit each other."""
        if self.sample_rate_hz % FRAME_RATE_HZ:
            raise ConfigError(
                f"decoder.sample_rate_hz: must be a multiple of {FRAME_RATE_HZ}, found {self.sample_rate_hz}; 16000, "
                "22000 and 24000 are"
            )
        mel = MelShape(self.sample_rate_hz)
        if mel.frames_of(frame_rate_hz) is None:
            raise ConfigError(
                f"data.units: a frame of units must last a whole number of {1000 // FRAME_RATE_HZ} ms, found units at "
                f"{frame_rate_hz:g} Hz; take a tokenizer at 12.5, 25 or 50 Hz"
            )
        return DecoderShape(
            codebook_size,
            frame_rate_hz,
            mel,
            _DURATIONS[self.size],
            _ACOUSTICS[self.size],
            replace(_VOCODERS[self.vocoder, self.size]),
        )

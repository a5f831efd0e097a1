"""The speech decoder as it is loaded and asked: units -> samples, at once or as they come.

A stream gives the same sound as the whole but for what it cannot know yet: a piece is computed with as much of its
neighbourhood as matters, and pieces fade into each other over one frame of units, so that no joint can click.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cslm import storage
from cslm.errors import CheckpointError, ConfigError, ContractError
from cslm.speech.decoder import griffin_lim, saved
from cslm.speech.decoder.durations import whole_frames
from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.networks import DecoderShape, Networks
from cslm.speech.decoder.spoken import Speaking, Spoken
from cslm.speech.decoder.voices import VoiceSums

Waveform = NDArray[np.float32]
Units = Sequence[int] | NDArray[Any]

# Seconds of units: what a piece of a stream is told of the past and of the future, and the shortest that is worth it.
_PAST_S, _FUTURE_S, _PIECE_S = 1.0, 0.4, 0.4
# Units behind a unit that a stream waits for before it says how long that one lasts.
_DURATION_AHEAD = 4
_NAMES_TOLD = 8


class SpeechDecoder:
    """Speaks the units of one tokenizer in known voices.

    `kind`: flow (trained) or griffin_lim (untrained stand-in). `tokenizer`: fingerprint of the units that it speaks.
    """

    def __init__(self, document: dict[str, Any], speaking: Speaking, voices_SV: Tensor) -> None:
        self.kind: str = document["kind"]
        self.fingerprint: str = document["fingerprint"]
        self.tokenizer: str = document["tokenizer"]
        self.speakers: tuple[str, ...] = tuple(document["speakers"])
        self.default_speaker: str = document["default_speaker"]
        self.frame_rate_hz: float = document["network"]["frame_rate_hz"]
        self.codebook_size: int = document["network"]["codebook_size"]
        self.speaking = speaking
        self.device = torch.device("cpu")
        self._voices_SV = voices_SV

    @property
    def sample_rate_hz(self) -> int:
        """Of the samples that it gives."""
        return self.speaking.mel_shape.sample_rate_hz

    @property
    def samples_a_frame(self) -> int:
        """Samples that one frame of units lasts."""
        return round(self.sample_rate_hz / self.frame_rate_hz)

    def to(self, device: str) -> "SpeechDecoder":
        """Move to a torch device and return self."""
        self.device = torch.device(device)
        self.speaking.to(self.device)
        self._voices_SV = self._voices_SV.to(self.device)
        return self

    def check_units(self, tokenizer: str, of: str) -> None:
        """Raise CheckpointError unless units `of` something come from the tokenizer that the decoder was trained on."""
        if tokenizer != self.tokenizer:
            raise CheckpointError(
                f"{of}: units must be of the tokenizer {self.tokenizer} that the speech decoder was trained on, found "
                f"{tokenizer}; train a decoder on these units by jobs/decoder.py"
            )

    def voice(self, waveforms: Sequence[Waveform]) -> NDArray[np.float32]:
        """A voice (V,) from recordings (T,) at `sample_rate_hz`, to be given as `speaker`, of somebody not known."""
        mel = self.speaking.mel_shape
        mels = (mel.log_mel(torch.tensor(one, dtype=torch.float32)[None])[0] for one in waveforms)
        return VoiceSums.of(mels).voice.numpy()

    def speak(
        self, units: Units, durations: Units | None = None, speaker: str | NDArray[np.float32] | None = None
    ) -> Waveform:
        """Samples (T,) of units (U,); `durations` (U,) in frames of units, predicted when None.

        `speaker` is one of `speakers`, or a voice that `voice` gave; None for the default one. Raises ContractError for
        units or durations that cannot be, ConfigError for a speaker that is not known.
        """
        voice_V = self.voice_named(speaker)
        units_U = self._units(units)
        durations_U = (
            self.durations(units_U, voice_V) if durations is None else self._durations(durations, len(units_U))
        )
        codes_T = units_U.repeat_interleave(durations_U)
        if not len(codes_T):
            return np.empty(0, np.float32)
        return self.render(codes_T, voice_V, self.noise(_generator(), len(codes_T)))

    def stream(self, speaker: str | NDArray[np.float32] | None = None) -> "DecoderStream":
        """What is given units as they come and gives samples as soon as it can."""
        return DecoderStream(self, self.voice_named(speaker))

    def mel(self, codes_T: Tensor, voice_V: Tensor) -> Tensor:
        """Log mel (F, M) of the codes of frames."""
        return self.speaking.mel(codes_T, voice_V, self.noise(_generator(), len(codes_T)))

    def durations(self, units_U: Tensor, voice_V: Tensor) -> Tensor:
        """Predicted frames (U,) of each unit."""
        return whole_frames(self.speaking.expected_frames(units_U, voice_V))[0] if len(units_U) else units_U

    def render(self, codes_T: Tensor, voice_V: Tensor, noise_TP: Tensor) -> Waveform:
        """Samples of the codes of frames."""
        samples_T = self.speaking.samples(self.speaking.mel(codes_T, voice_V, noise_TP))
        found: Waveform = samples_T.clamp(-1, 1).cpu().numpy().astype(np.float32)
        return found

    def noise(self, generator: torch.Generator, num_frames: int) -> Tensor:
        """Noise (F, P) that frames start from: the same for the same frame however they are drawn."""
        return torch.randn(num_frames, self.speaking.patch, generator=generator).to(self.device)

    def voice_named(self, speaker: str | NDArray[np.float32] | None) -> Tensor:
        """The voice (V,) of a speaker. Raises ConfigError for one that is not known."""
        if speaker is not None and not isinstance(speaker, str):
            return torch.tensor(speaker, dtype=torch.float32, device=self.device)
        name = self.default_speaker if speaker is None else speaker
        if name not in self.speakers:
            some = ", ".join(self.speakers[:_NAMES_TOLD]) + (", .." if len(self.speakers) > _NAMES_TOLD else "")
            raise ConfigError(f"speaker: must be one of the {len(self.speakers)} voices {some}, found {name!r}")
        return self._voices_SV[self.speakers.index(name)]

    def _units(self, units: Units) -> Tensor:
        found_U = torch.as_tensor(np.asarray(units, dtype=np.int64), device=self.device)
        if found_U.ndim != 1 or (
            len(found_U) and not 0 <= int(found_U.min()) <= int(found_U.max()) < self.codebook_size
        ):
            wrong = "units of another form" if found_U.ndim != 1 else f"{int(found_U.min())} .. {int(found_U.max())}"
            raise ContractError(f"units must be a list of numbers 0 .. {self.codebook_size - 1}, found {wrong}")
        return found_U

    def _durations(self, durations: Units, count: int) -> Tensor:
        found_U = torch.as_tensor(np.asarray(durations, dtype=np.int64), device=self.device)
        if found_U.shape != (count,) or (count and int(found_U.min()) < 1):
            raise ContractError(
                f"durations must be one a unit ({count}) and at least 1 frame, found {list(found_U.shape)} of at least "
                f"{int(found_U.min()) if found_U.numel() else 0}"
            )
        return found_U


class DecoderStream:
    """Units in, samples out: `add` as they come, then `end`; each gives the samples (T,) that are ready, maybe none."""

    def __init__(self, decoder: SpeechDecoder, voice_V: Tensor) -> None:
        rate_hz = decoder.frame_rate_hz
        speaking = decoder.speaking
        self._decoder, self._voice_V = decoder, voice_V
        self._past = min(round(_PAST_S * rate_hz), speaking.reach)
        self._future = min(round(_FUTURE_S * rate_hz), speaking.reach)
        self._piece = max(1, round(_PIECE_S * rate_hz))
        self._generator = _generator()
        # Units whose durations are not settled, behind some that are, which those depend on.
        self._units_U = torch.empty(0, dtype=torch.long, device=decoder.device)
        self._settled, self._carried = 0, 0.0
        # Frames that are held: `_given` of them are spoken already.
        self._codes_T = self._units_U
        self._noise_TP = decoder.noise(self._generator, 0)
        self._given = 0
        self._tail = np.empty(0, np.float32)
        self._ended = False

    def add(self, units: Units, durations: Units | None = None) -> Waveform:
        """Take more units; `durations` are predicted when None. Raises what `SpeechDecoder.speak` does."""
        if self._ended:
            raise ContractError("units must be added before the stream is ended; open another stream")
        units_U = self._decoder._units(units)
        if durations is not None:
            given_U = self._decoder._durations(durations, len(units_U))
            self._settle(ahead=0)
            self._hold(units_U.repeat_interleave(given_U))
            self._units_U = torch.cat((self._units_U, units_U))
            self._settled = len(self._units_U)
        else:
            self._units_U = torch.cat((self._units_U, units_U))
            self._settle(min(_DURATION_AHEAD, self._decoder.speaking.duration_reach))
        return self._ready(self._future, self._piece)

    def end(self) -> Waveform:
        """The rest."""
        self._settle(ahead=0)
        self._ended = True
        rest = self._ready(0, 1)
        rest = np.concatenate((rest, self._tail))
        self._tail = np.empty(0, np.float32)
        return rest

    def _settle(self, ahead: int) -> None:
        """Predict the durations of units that have `ahead` units behind them."""
        stop = len(self._units_U) - ahead
        if stop <= self._settled:
            return
        expected_U = self._decoder.speaking.expected_frames(self._units_U, self._voice_V)[self._settled : stop]
        durations_U, self._carried = whole_frames(expected_U, self._carried)
        self._hold(self._units_U[self._settled : stop].repeat_interleave(durations_U))
        forgotten = max(0, stop - self._decoder.speaking.duration_reach)
        self._units_U, self._settled = self._units_U[forgotten:], stop - forgotten

    def _hold(self, codes_T: Tensor) -> None:
        self._codes_T = torch.cat((self._codes_T, codes_T))
        self._noise_TP = torch.cat((self._noise_TP, self._decoder.noise(self._generator, len(codes_T))))

    def _ready(self, future: int, least: int) -> Waveform:
        """The samples of frames that have `future` frames behind them, where there are at least so many of these."""
        stop = len(self._codes_T) - future
        if stop - self._given < least:
            return np.empty(0, np.float32)
        samples = self._decoder.render(self._codes_T, self._voice_V, self._noise_TP)
        spacing = self._decoder.samples_a_frame
        # One frame more than is given: the next piece fades in over it.
        beyond = min(stop + 1, len(self._codes_T))
        piece = samples[self._given * spacing : beyond * spacing]
        fade = len(self._tail)
        if fade:
            rising = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
            piece[:fade] = (1 - rising) * self._tail + rising * piece[:fade]
        kept = (stop - self._given) * spacing
        self._tail = piece[kept:].copy()
        forgotten = max(0, stop - self._past)
        self._codes_T, self._noise_TP = self._codes_T[forgotten:], self._noise_TP[forgotten:]
        self._given = stop - forgotten
        return piece[:kept].copy()


def has_decoder(folder: str) -> bool:
    """Whether a folder or URI holds a speech decoder."""
    return saved.describe(storage.absolute(folder)) is not None


def load(folder: str, device: str = "cpu") -> SpeechDecoder:
    """The decoder of a folder or URI. Raises CheckpointError when it is none, or not whole."""
    document, tensors = saved.read(storage.absolute(folder))
    return unpack(document, tensors).to(device)


def unpack(document: dict[str, Any], tensors: dict[str, Tensor]) -> SpeechDecoder:
    """The decoder of what a folder says and its weights."""
    network = document["network"]
    voices_SV = tensors["voices_SV"]
    if document["kind"] == "griffin_lim":
        means = griffin_lim.unpack(MelShape(**network["mel"]), tensors)
        return SpeechDecoder(document, means, voices_SV)
    networks = Networks(DecoderShape.unpack(network), voices_SV)
    networks.load_state_dict(tensors)
    settings = document["settings"]
    return SpeechDecoder(document, Spoken(networks, settings["flow_steps"], settings["temperature"]), voices_SV)


def _generator() -> torch.Generator:
    """Where noise comes from: the same for every utterance, so that the same units sound the same."""
    return torch.Generator().manual_seed(0)

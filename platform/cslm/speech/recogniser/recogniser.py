"""The recogniser as it is saved, loaded and asked: audio -> frames for units, and audio -> text.

Clips are computed one by one on a CPU and side by side on other devices, long ones in stretches that overlap by as much
as the network hears; either way a frame has the same neighbours.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cslm.speech import ctc
from cslm.speech.recogniser import features
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import FRAME_RATE_HZ, Layout, Network, Shape

Float32 = NDArray[np.float32]

# Frames at 50 Hz that are computed at a time: bounds memory.
_STRETCH = {"cpu": 4_000, "cuda": 40_000}
_SAMPLES = features.SAMPLE_RATE_HZ // FRAME_RATE_HZ
_MELS = _SAMPLES // features.HOP


class Recogniser:
    """A network, and the alphabet that names its outputs."""

    def __init__(self, network: Network, alphabet: Alphabet) -> None:
        self.network = network.settle()
        self.alphabet = alphabet
        self.device = torch.device("cpu")

    @classmethod
    def unpack(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        """The recogniser of what `pack` gave."""
        alphabet = Alphabet(tuple(config["characters"]))
        network = Network(Shape(**config["shape"]), alphabet.num_symbols)
        network.load_state_dict(weights)
        return cls(network, alphabet)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What decides the results beside the weights (JSON), and the weights."""
        config = {
            "shape": self.network.config(),
            "characters": list(self.alphabet.characters),
            "features": features.VERSION,
        }
        return config, {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}

    def to(self, device: torch.device) -> Self:
        """Move the weights to a device and return self."""
        self.device = device
        self.network.to(device)
        return self

    def unit_frames(self, waveforms: Sequence[Float32]) -> list[Tensor]:
        """The middle frames (F, width) of each clip (T,) at 16 kHz, F = max(1, T // 320)."""
        return self._frames(waveforms, self.network.unit_frames)

    def log_probs(self, waveforms: Sequence[Float32]) -> list[Float32]:
        """Log probability of each symbol (F, num_symbols) of each clip (T,) at 16 kHz."""
        logits = self._frames(waveforms, lambda mel_TM, mask_T1: self.network(mel_TM, mask_T1)[1].float())
        return [logits_FV.log_softmax(1).cpu().numpy() for logits_FV in logits]

    def texts(self, waveforms: Sequence[Float32], beam: int | None = None) -> list[str]:
        """What is said in each clip: by the likeliest path, or by prefix beam search where `beam` is given."""
        found = []
        for log_probs_FV in self.log_probs(waveforms):
            best = ctc.greedy(log_probs_FV) if beam is None else ctc.prefix_beam(log_probs_FV, beam)[0][0]
            found.append(self.alphabet.read(best))
        return found

    @torch.no_grad()
    def _frames(self, waveforms: Sequence[Float32], compute: Any) -> list[Tensor]:
        """What `compute(mel, mask)` gives for the frames of each clip."""
        plans = [self._stretches(self._features(waveform)) for waveform in waveforms]
        stretches = [stretch for plan in plans for stretch in plan]
        parts: list[Tensor] = []
        for batch in self._batches([len(mel_FM) // _MELS for mel_FM, _, _ in stretches]):
            clips = [stretches[i][0] for i in batch]
            layout = Layout.of([len(mel_FM) // _MELS for mel_FM in clips], self.network.gap)
            mask_T1 = layout.mask()
            parts += layout.split(compute(layout.lay(clips), mask_T1 if mask_T1 is None else mask_T1.to(self.device)))
        kept = (part[first:last] for part, (_, first, last) in zip(parts, stretches, strict=True))
        return [torch.cat([next(kept) for _ in plan]) for plan in plans]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Neighbours that are computed side by side."""
        if _one_by_one(self.device):
            return [[i] for i in range(len(lengths))]
        batches: list[list[int]] = []
        held = 0
        for number, length in enumerate(lengths):
            if batches and held + length <= _STRETCH[self.device.type]:
                batches[-1].append(number)
                held += length
            else:
                batches.append([number])
                held = length
        return batches

    def _features(self, waveform: Float32) -> Tensor:
        # A copy: samples may lie in shared memory, which is read-only; torch does not know such arrays.
        samples_T = torch.tensor(waveform, dtype=torch.float32, device=self.device)
        return features.features(samples_T, _MELS * max(1, len(waveform) // _SAMPLES))

    def _stretches(self, clip_FM: Tensor) -> list[tuple[Tensor, int, int]]:
        """(mel frames, first, last) of each stretch of a clip, of whose frames at 50 Hz those of first:last count."""
        num_frames, at_once, reach = len(clip_FM) // _MELS, _STRETCH[self.device.type], self.network.reach
        if num_frames <= at_once:
            return [(clip_FM, 0, num_frames)]
        found = []
        for first in range(0, num_frames, at_once):
            last = min(first + at_once, num_frames)
            start, end = max(0, first - reach), min(num_frames, last + reach)
            found.append((clip_FM[_MELS * start : _MELS * end], first - start, last - start))
        return found


def _one_by_one(device: torch.device) -> bool:
    """Whether clips are computed one at a time: a CPU wins nothing by having several, and none can change another."""
    return device.type == "cpu"

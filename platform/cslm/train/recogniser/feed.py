"""Spectra -> batches of one rank: which utterances a step has, and how they vary, follows from (data, seed, step).

Every rank holds the utterances that fall to it and goes over them in its own order, so that nothing is read twice and a
run goes on at any step as if it had never stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cslm.data.spectra import Spectrum
from cslm.speech.recogniser import features
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import FRAME_RATE_HZ, Layout
from cslm.train.recogniser.augment import AugmentSection, augment, mask

# An utterance is drawn no more often than this in an epoch.
_MOST_TIMES = 8
_MELS = features.SAMPLE_RATE_HZ // features.HOP // FRAME_RATE_HZ


@dataclass(frozen=True)
class Batch:
    """Clips behind each other: mel frames (2T, 80), where each lies, and the symbols of its text."""

    mel_TM: Tensor
    layout: Layout
    targets: list[Tensor]

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """What the network is given: mel frames and mask on a device."""
        mask_T1 = self.layout.mask()
        return self.mel_TM.to(device), mask_T1 if mask_T1 is None else mask_T1.to(device)

    @property
    def num_frames(self) -> int:
        """Frames at 50 Hz that belong to clips."""
        return sum(self.layout.lengths)


class SpectraFeed:
    """Batches of about `batch_s` seconds from the utterances of one rank."""

    def __init__(
        self,
        spectra: Sequence[Spectrum],
        alphabet: Alphabet,
        *,
        batch_s: float,
        gap: int,
        seed: int,
        rank: int,
        augmentation: AugmentSection,
        short_bias: float = 0.0,
    ) -> None:
        """`short_bias`: utterances half as long as the median one are drawn 2 ** short_bias times in an epoch."""
        assert spectra
        self._spectra, self._gap, self._seed, self._rank = spectra, gap, seed, rank
        self._targets = [torch.tensor(alphabet.spell(spectrum.text)) for spectrum in spectra]
        self._lengths_s = [spectrum.seconds for spectrum in spectra]
        self._batch_s, self._augmentation = batch_s, augmentation
        ratio = np.median(self._lengths_s) / np.array(self._lengths_s)
        # Nothing is left out for being long.
        self._times = np.clip(ratio, 1, _MOST_TIMES) ** short_bias
        self._epochs: list[list[list[int]]] = []
        self._num_batches = 0

    @property
    def audio_s(self) -> float:
        """Seconds of all utterances of this rank."""
        return sum(self._lengths_s)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        rng = np.random.default_rng([self._seed, self._rank, step])
        chosen = self._members(step)
        clips = [self._vary(self._spectra[i].log_mel.astype(np.float32), rng) for i in chosen]
        return lay_out(clips, [self._targets[i] for i in chosen], self._gap)

    def _vary(self, log_mel_FM: np.ndarray, rng: np.random.Generator) -> Tensor:
        varied_FM = augment(log_mel_FM, self._augmentation, rng)
        normalised_FM = features.normalise(torch.from_numpy(varied_FM))
        mask(normalised_FM.numpy(), self._augmentation, rng)
        return normalised_FM

    def _members(self, step: int) -> list[int]:
        while step >= self._num_batches:
            epoch = self._epoch(len(self._epochs))
            self._epochs.append(epoch)
            self._num_batches += len(epoch)
        for epoch in self._epochs:
            if step < len(epoch):
                return epoch[step]
            step -= len(epoch)
        raise AssertionError("a step belongs to an epoch")

    def _epoch(self, number: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, self._rank, number, 1])
        # Whole times, and once more with the probability of what is left.
        times = np.floor(self._times + rng.random(len(self._times))).astype(np.int64)
        order = rng.permutation(np.repeat(np.arange(len(times)), times))
        batches: list[list[int]] = [[]]
        held_s = 0.0
        for position in order.tolist():
            if held_s >= self._batch_s:
                batches.append([])
                held_s = 0.0
            batches[-1].append(position)
            held_s += self._lengths_s[position]
        return batches


def lay_out(clips: Sequence[Tensor], targets: Sequence[Tensor], gap: int) -> Batch:
    """Clips of mel frames (2F, 80) and the symbols of their texts as one batch."""
    layout = Layout.of([len(clip_FM) // _MELS for clip_FM in clips], gap)
    return Batch(layout.lay(clips), layout, list(targets))

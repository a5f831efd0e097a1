"""Clips -> batches of one rank: what a step has follows from (data, seed, rank, step), so a run goes on anywhere.

A step has whole clips of units behind each other, and crops of their sound for the vocoder. Mels are computed here
from the samples, which take an eighth of the room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cslm.data.clips import Clip
from cslm.speech.decoder.networks import DecoderShape
from cslm.speech.recogniser.network import Layout
from cslm.train.decoder.losses import Clips


@dataclass(frozen=True)
class Batch:
    """The clips of a step, and crops of sound (N, samples)."""

    clips: Clips
    crops_NT: Tensor
    audio_s: float


class ClipFeed:
    """Batches of about `batch_s` seconds from the clips of one rank, with `num_crops` crops of `crop_frames` frames."""

    def __init__(
        self,
        clips: Sequence[Clip],
        voices: Mapping[str, Tensor],
        shape: DecoderShape,
        *,
        batch_s: float,
        num_crops: int,
        crop_frames: int,
        gap: int,
        seed: int,
        rank: int,
    ) -> None:
        assert clips
        self._clips, self._voices, self._shape = clips, voices, shape
        self._batch_s, self._gap, self._seed, self._rank = batch_s, gap, seed, rank
        self._num_crops, self._crop = num_crops, crop_frames * shape.mel.hop
        self._epochs: list[list[list[int]]] = []
        self._num_batches = 0

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        rng = np.random.default_rng([self._seed, self._rank, step])
        chosen = [self._clips[i] for i in self._members(step)]
        crops = [self._crop_of(chosen[int(i)], rng) for i in rng.integers(len(chosen), size=self._num_crops)]
        crops_NT = torch.from_numpy(np.stack(crops)) if crops else torch.empty(0, self._crop)
        return Batch(
            lay_out(chosen, self._voices, self._shape, self._gap), crops_NT, sum(one.seconds for one in chosen)
        )

    @property
    def batches_an_epoch(self) -> int:
        """Batches that take every clip once."""
        return len(self._epoch(0))

    def _crop_of(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        samples = clip.samples
        first = int(rng.integers(max(1, len(samples) - self._crop + 1)))
        part = samples[first : first + self._crop].astype(np.float32) / 32768
        return np.pad(part, (0, self._crop - len(part)))

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
        batches: list[list[int]] = [[]]
        held_s = 0.0
        for position in rng.permutation(len(self._clips)).tolist():
            if held_s >= self._batch_s:
                batches.append([])
                held_s = 0.0
            batches[-1].append(position)
            held_s += self._clips[position].seconds
        return batches


def lay_out(clips: Sequence[Clip], voices: Mapping[str, Tensor], shape: DecoderShape, gap: int) -> Clips:
    """Clips behind each other, with their mels."""
    frames = Layout.of([clip.num_frames for clip in clips], gap)
    units = Layout.of([len(clip.units) for clip in clips], gap)
    bands, together = shape.mel.num_bands, shape.mels_a_frame
    codes_T = torch.zeros(frames.total, dtype=torch.long)
    mel_TP = torch.zeros(frames.total, together * bands)
    units_U = torch.zeros(units.total, dtype=torch.long)
    durations_U = torch.zeros(units.total)
    clip_T, clip_U = torch.zeros(frames.total, dtype=torch.long), torch.zeros(units.total, dtype=torch.long)
    for number, (clip, at, start) in enumerate(zip(clips, frames.starts, units.starts, strict=True)):
        end, stop = at + clip.num_frames, start + len(clip.units)
        one = torch.from_numpy(clip.units.astype(np.int64))
        lasting = torch.from_numpy(clip.durations.astype(np.int64))
        units_U[start:stop], durations_U[start:stop], clip_U[start:stop] = one, lasting.float(), number
        codes_T[at:end], clip_T[at:end] = one.repeat_interleave(lasting), number
        mel_TP[at:end] = shape.mel.log_mel(samples_of(clip, shape)).view(clip.num_frames, together * bands)
    voices_NV = torch.stack([voices[clip.speaker] for clip in clips])
    mask_T1, mask_U1 = (one.mask() if len(clips) > 1 else torch.ones(one.total, 1) for one in (frames, units))
    assert mask_T1 is not None
    assert mask_U1 is not None
    return Clips(codes_T, mel_TP, mask_T1, clip_T, units_U, durations_U, mask_U1, clip_U, voices_NV)


def samples_of(clip: Clip, shape: DecoderShape) -> Tensor:
    """The samples (1, T) that the frames of a clip's units stand for: cut, or filled up with silence."""
    wanted = clip.num_frames * shape.mels_a_frame * shape.mel.hop
    samples = clip.samples[:wanted].astype(np.float32) / 32768
    return torch.from_numpy(np.pad(samples, (0, wanted - len(samples))))[None]

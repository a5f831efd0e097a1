"""Voices as numbers: mean and deviation of each mel band over all that somebody says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Bands that hardly vary in a voice are not blown up.
_LEAST_DEVIATION = 0.3


@dataclass(frozen=True)
class VoiceSums:
    """Frames of somebody's log mels, their sums and sums of squares (M,): what adds up over shards."""

    num_frames: int
    sums: Sequence[float]
    squares: Sequence[float]

    @classmethod
    def of(cls, mels: Iterable[Tensor]) -> "VoiceSums":
        """Of log mels (F, M)."""
        frames_FM = torch.cat(list(mels)).double()
        return cls(len(frames_FM), frames_FM.sum(0).tolist(), (frames_FM**2).sum(0).tolist())

    def __add__(self, other: "VoiceSums") -> "VoiceSums":
        pairs = ((self.sums, other.sums), (self.squares, other.squares))
        sums, squares = ([x + y for x, y in zip(one, two, strict=True)] for one, two in pairs)
        return VoiceSums(self.num_frames + other.num_frames, sums, squares)

    @property
    def voice(self) -> Tensor:
        """The voice (2M,)."""
        mean_M = torch.tensor(self.sums, dtype=torch.float64) / self.num_frames
        variance_M = torch.tensor(self.squares, dtype=torch.float64) / self.num_frames - mean_M**2
        return torch.cat((mean_M, variance_M.clamp(min=0).sqrt().clamp(min=_LEAST_DEVIATION))).float()

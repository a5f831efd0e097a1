"""How many units a second of speech costs, how many bits, and how much of the codebook is in use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cslm.evaluate.units.sequences import Units, frames, merged


@dataclass(frozen=True)
class Rates:
    """The price of the units of a corpus."""

    frames_per_s: float
    units_per_s: float  # after merging: the length that a language model pays for
    bits_per_s: float  # entropy of the merged units, each by itself, times their rate
    perplexity: float  # of the frames' codes: as many equally frequent codes would be as unforeseeable
    usage: float  # share of the codebook that occurs


def rates(sequences: Sequence[Units], codebook_size: int, audio_s: float) -> Rates:
    """The rates of units that stand for `audio_s` seconds of speech. Raises ValueError where there is none."""
    if not sequences or audio_s <= 0:
        raise ValueError(f"rates need units and their seconds, found {len(sequences)} sequences of {audio_s} s")
    codes = np.concatenate([frames(sequence) for sequence in sequences])
    runs = np.concatenate([merged(sequence) for sequence in sequences])
    counts = np.bincount(codes, minlength=codebook_size)
    units_per_s = len(runs) / audio_s
    return Rates(
        frames_per_s=len(codes) / audio_s,
        units_per_s=units_per_s,
        bits_per_s=entropy_bits(np.bincount(runs)) * units_per_s,
        perplexity=2 ** entropy_bits(counts),
        usage=float(np.count_nonzero(counts)) / codebook_size,
    )


def entropy_bits(counts: NDArray[Any]) -> float:
    """Entropy in bits of the distribution that counts of any shape show."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())

"""One module for each kind of tokenizer.

Their settings are declared here, because a driver reads them without loading what the tokenizers are made of.
"""

from typing import Literal

from pydantic import field_validator

from cslm.config import Section, setting


class KMeansSection(Section):
    """Settings that a k-means tokenizer is fitted with; a saved one keeps its own."""

    features: Literal["mfcc", "logmel"] = setting("mfcc", "mfcc: 13 cepstra with deltas and delta-deltas; logmel: 40")
    codebook_size: int = setting(500, "number of units", ge=2, le=65536)
    frame_rate_hz: float = setting(50.0, "codes a second; 16,000 must be a multiple", unit="Hz", gt=0, le=200)
    seed: int = setting(0, "of the sample and of the first centroids", ge=0)
    fit_audio_s: float = setting(720.0, "audio to fit on, spread evenly over the languages", unit="s", gt=0)
    fit_iterations: int = setting(20, "Lloyd iterations at most", ge=1)

    @field_validator("frame_rate_hz")
    @classmethod
    def _whole_samples(cls, rate_hz: float) -> float:
        if (16_000 / rate_hz) % 1:
            raise ValueError(f"frames must be a whole number of samples of 16 kHz apart, found {16_000 / rate_hz:.3f}")
        return rate_hz

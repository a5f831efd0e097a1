"""One module for each kind of tokenizer.

Their settings are declared here, because a driver reads them without loading what the tokenizers are made of.
"""

from typing import Literal

from cslm.config import Section, setting


class KMeansSection(Section):
    """Settings that a k-means tokenizer is fitted with; a saved one keeps its own."""

    features: Literal["mfcc", "logmel"] = setting("mfcc", "mfcc: 13 cepstra with deltas and delta-deltas; logmel: 40")
    codebook_size: int = setting(500, "number of units", ge=2, le=65536)
    frame_rate_hz: float = setting(50.0, "codes a second", unit="Hz", gt=0, le=200)
    seed: int = setting(0, "of the sample and of the first centroids", ge=0)
    fit_audio_s: float = setting(720.0, "audio to fit on, spread evenly over the languages", unit="s", gt=0)
    fit_iterations: int = setting(20, "Lloyd iterations at most", ge=1)

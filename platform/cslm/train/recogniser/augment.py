"""Augmentation of log-mel spectra: other speakers, rooms and channels than the corpus has.

Speed and vocal-tract length (Jaitly and Hinton 2013) by interpolating frames and bands, noise added to the power,
bands cut off as by a telephone, and masks (SpecAugment: Park et al. 2019, arXiv:1904.08779).
"""

import numpy as np
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.speech.recogniser.features import NUM_MELS

Float32 = NDArray[np.float32]


class AugmentSection(Section):
    """How spectra are varied in training; zero turns a variation off."""

    speed: float = setting(0.13, "share by which speech is made slower or faster at most", ge=0, lt=0.5)
    warp: float = setting(0.10, "share by which bands are moved up or down at most, as other speakers do", ge=0, lt=0.3)
    noise: float = setting(0.3, "probability of added noise", ge=0, le=1)
    band_limit: float = setting(0.2, "probability that high bands are cut off", ge=0, le=1)
    band_masks: int = setting(2, "masks of up to 12 bands", ge=0)
    frame_masks_a_second: float = setting(0.7, "masks of up to 0.2 s, for each second of speech", ge=0)


def augment(log_mel_FM: Float32, section: AugmentSection, rng: np.random.Generator) -> Float32:
    """Vary a log-mel spectrum (2F, 80) before it is normalised; the number of frames may change, and stays even."""
    if section.speed:
        log_mel_FM = _stretched(log_mel_FM, rng.uniform(1 - section.speed, 1 + section.speed))
    if section.warp:
        log_mel_FM = _warped(log_mel_FM, rng.uniform(1 - section.warp, 1 + section.warp))
    if rng.random() < section.noise:
        log_mel_FM = _noisy(log_mel_FM, rng)
    if rng.random() < section.band_limit:
        # As by a telephone or worse: what lies above 2 to 4 kHz is gone.
        log_mel_FM = log_mel_FM.copy()
        log_mel_FM[:, rng.integers(45, 62) :] = log_mel_FM.min()
    return log_mel_FM


def mask(normalised_FM: Float32, section: AugmentSection, rng: np.random.Generator) -> Float32:
    """Set some bands and some stretches of a normalised spectrum to zero, in place."""
    num_frames = len(normalised_FM)
    for _ in range(section.band_masks):
        width = rng.integers(0, 13)
        start = rng.integers(0, NUM_MELS - width + 1)
        normalised_FM[:, start : start + width] = 0
    for _ in range(round(section.frame_masks_a_second * num_frames / 100 + rng.random() - 0.5)):
        width = rng.integers(0, min(20, num_frames // 6) + 1)
        start = rng.integers(0, num_frames - width + 1)
        normalised_FM[start : start + width] = 0
    return normalised_FM


def _stretched(spectrum_FM: Float32, speed: float) -> Float32:
    num_frames = len(spectrum_FM)
    positions = np.linspace(0, num_frames - 1, 2 * max(1, round(num_frames / speed / 2)))
    before = positions.astype(np.int64)
    after = np.minimum(before + 1, num_frames - 1)
    share_F1 = (positions - before)[:, None].astype(np.float32)
    found: Float32 = spectrum_FM[before] * (1 - share_F1) + spectrum_FM[after] * share_F1
    return found


def _warped(spectrum_FM: Float32, factor: float) -> Float32:
    bands = np.clip(np.arange(NUM_MELS) * factor, 0, NUM_MELS - 1)
    below = bands.astype(np.int64)
    above = np.minimum(below + 1, NUM_MELS - 1)
    share_M = (bands - below).astype(np.float32)
    found: Float32 = spectrum_FM[:, below] * (1 - share_M) + spectrum_FM[:, above] * share_M
    return found


def _noisy(spectrum_FM: Float32, rng: np.random.Generator) -> Float32:
    """Noise 9 to 30 dB below the loudest, falling or rising over the bands; its power varies as that of noise does."""
    level = spectrum_FM.max() - rng.uniform(2, 7)
    tilt_M = np.linspace(0, rng.uniform(-3, 1), NUM_MELS, dtype=np.float32)
    power_FM = rng.standard_exponential(spectrum_FM.shape, np.float32) + 1e-3
    found: Float32 = np.logaddexp(spectrum_FM, level + tilt_M + np.log(power_FM))
    return found

"""Recordings made of a few seconds' arithmetic: tones that move, with noise, different for every seed."""

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray


def waveform(seed: int, seconds: float = 1.0, rate_hz: int = 16_000) -> NDArray[np.float32]:
    """Samples (T,) within [-0.5, 0.5]."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = rng.uniform(100, 300) * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(1, 4) * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    harmonics = sum(np.sin(number * phase) * rng.uniform(0, 1) for number in range(1, 12))
    samples = harmonics + 0.1 * rng.normal(size=len(time_s))
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def encoded(
    samples: NDArray[np.float32], rate_hz: int = 16_000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """The bytes of an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def write(path: Path, seed: int, seconds: float = 1.0, rate_hz: int = 16_000) -> None:
    """Write a wav file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(waveform(seed, seconds, rate_hz), rate_hz))

"""Recordings made of a few seconds' arithmetic: tones that move, with noise, different for every seed."""

import io
import struct
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


def tone(seconds: float = 1.0, rate_hz: int = 16_000, hz: float = 1000.0) -> NDArray[np.float32]:
    """A sine of half the full scale."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def contained(samples: NDArray[np.float32], rate_hz: int, kind: str, codec: str) -> bytes:
    """The bytes of a container that libsndfile does not read, written by FFmpeg; samples (T,) or (T, 2)."""
    import av

    layout = "stereo" if samples.ndim == 2 else "mono"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        stream.bit_rate = 96_000
        for first in range(0, len(samples), 1024):
            planes = np.ascontiguousarray(np.atleast_2d(samples[first : first + 1024].T))
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.rate, frame.pts = rate_hz, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wav(
    data: bytes, *, rate_hz: int = 16_000, channels: int = 1, tag: int = 1, claimed_bytes: int | None = None
) -> bytes:
    """A 16-bit wav file that says of itself what it is told to."""
    claimed = len(data) if claimed_bytes is None else claimed_bytes
    width, a_second = min(channels * 2, 65_535), min(rate_hz * channels * 2, 2**32 - 1)
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, a_second, width, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", claimed)
    return b"RIFF" + struct.pack("<I", min(36 + claimed, 2**32 - 1)) + head + data

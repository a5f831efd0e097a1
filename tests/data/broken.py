"""What stands in corpora in place of recordings: each with the reason that it must be rejected for."""

import gzip
import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from tests.data import sounds

_SAMPLES = sounds.waveform(1, 3.0)
_PCM = (_SAMPLES * 32767).astype("<i2").tobytes()


@dataclass(frozen=True)
class Broken:
    """Bytes of a file, the reason it is rejected for, a part of what a person is told, and what its row says."""

    data: bytes
    reason: str
    told: str
    row: dict[str, Any] = field(default_factory=dict)


def _wav(**changes: Any) -> bytes:
    return sounds.wav(_PCM, **changes)


def _half(kind: str, subtype: str | None = None, rate_hz: int = 16_000) -> bytes:
    data = sounds.encoded(sounds.waveform(1, 3.0, rate_hz), rate_hz, kind, subtype)
    return data[: len(data) // 2]


def _flac_that_claims(num_frames: int) -> bytes:
    data = bytearray(sounds.encoded(_SAMPLES, kind="FLAC"))
    # The last 36 bits of the eight bytes that begin with the sample rate.
    facts = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_frames
    data[18:26] = facts.to_bytes(8, "big")
    return bytes(data)


def _png() -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def _flipped(data: bytes, first: int, count: int) -> bytes:
    return data[:first] + bytes(255 - byte for byte in data[first : first + count]) + data[first + count :]


def _anti_phase() -> bytes:
    return sounds.encoded(np.stack([_SAMPLES, -_SAMPLES], 1), subtype="FLOAT")


def kinds() -> dict[str, Broken]:
    """Every kind by a name."""
    good = sounds.encoded(_SAMPLES)
    noise = np.random.default_rng(3).integers(0, 256, 40_000, np.uint8).tobytes()
    float_of = lambda samples: sounds.encoded(np.asarray(samples, np.float32), subtype="FLOAT")  # noqa: E731
    nan = _SAMPLES.copy()
    nan[100] = np.nan
    return {
        "zero bytes": Broken(b"", "empty_file", "found 0 bytes"),
        "text": Broken(b"This is a text in a file named .wav\n", "not_audio", "found text: 'This is a text"),
        "html error page": Broken(b"<!DOCTYPE html><html>404</html>", "not_audio", "an HTML page"),
        "xml error": Broken(b"<?xml version='1.0'?><Error/>", "not_audio", "an XML document"),
        "git lfs pointer": Broken(b"version https://git-lfs.github.com/spec/v1\noid", "not_audio", "git lfs pull"),
        "picture": Broken(_png(), "not_audio", "a PNG picture"),
        "gzip": Broken(gzip.compress(good), "not_audio", "gzip-compressed"),
        "encrypted": Broken(noise, "not_audio", "bytes of no known kind"),
        "samples without a header": Broken(_PCM, "not_audio", "raw samples without a header"),
        "zeros": Broken(bytes(10_000), "not_audio", "zero bytes only"),
        "wav header cut": Broken(good[:20], "corrupt", "found damage"),
        "wav header alone": Broken(good[:44], "no_samples", "a header alone"),
        "wav cut": Broken(good[: len(good) // 2], "truncated", "found 1.499 s of the length"),
        "flac cut": Broken(_half("FLAC"), "corrupt", "flac decoder lost sync"),
        "mp3 cut": Broken(_half("MP3"), "truncated", " s of 3.000 s"),
        "vorbis cut": Broken(_half("OGG"), "truncated", "that its header promises"),
        "opus cut": Broken(_half("OGG", "OPUS", 48_000), "truncated", "that its header promises"),
        "aiff cut": Broken(_half("AIFF"), "truncated", "that its header promises"),
        "flac damaged": Broken(_flipped(sounds.encoded(_SAMPLES, kind="FLAC"), 5000, 200), "corrupt", "found damage"),
        "m4a cut": Broken(
            sounds.contained(_SAMPLES, 16_000, "ipod", "aac")[:2000], "corrupt", "audio that FFmpeg decodes"
        ),
        "m4a without sound": Broken(_m4a_without_sound(), "no_samples", "a stream of audio"),
        "sample rate 0": Broken(_wav(rate_hz=0), "bad_header", "found 1 channels at 0 Hz"),
        "sample rate of 2 GHz": Broken(_wav(rate_hz=2_000_000_000), "bad_header", "found 2,000,000,000 Hz"),
        "no channels": Broken(_wav(channels=0), "bad_header", "found 0 channels"),
        "65535 channels": Broken(_wav(channels=65535), "bad_header", "found 65,535 channels"),
        "unknown codec": Broken(_wav(tag=0x1234), "unsupported_codec", "format tag 0x1234"),
        "flac that claims 49 days": Broken(_flac_that_claims(2**36 - 1), "truncated", "3.000 s of 4294967.296 s"),
        "not a number": Broken(float_of(nan), "not_finite", "NaN or infinity"),
        "infinity": Broken(float_of(np.full(16_000, np.inf)), "not_finite", "NaN or infinity"),
        "silence": Broken(float_of(np.zeros(16_000)), "silent", "found zeros only"),
        "an offset alone": Broken(float_of(np.full(16_000, 0.25)), "silent", "one value (0.25) only"),
        "all but silent": Broken(float_of(_SAMPLES * 1e-4), "silent", "filters.min_level_dbfs"),
        "clipped": Broken(float_of(np.clip(_SAMPLES * 50, -1, 1)), "clipped", "stand at full scale"),
        "channels that cancel": Broken(_anti_phase(), "channels_cancel", "set audio.channels to first"),
        "one sample": Broken(float_of([0.5]), "too_short", "found 0.000 s"),
        "span outside": Broken(good, "bad_span", "found start_s=5.0", {"start_s": 5.0, "end_s": 6.0}),
        "span from before": Broken(good, "bad_span", "found start_s=-1.0", {"start_s": -1.0, "end_s": 1.0}),
        "span that ends first": Broken(good, "bad_span", "end_s=1.0", {"start_s": 2.0, "end_s": 1.0}),
        "span of nothing": Broken(good, "bad_span", "found start_s=nan", {"start_s": float("nan"), "end_s": 1.0}),
        "too long": Broken(_long(), "too_long", "found 700.0 s", {"text": "a transcript of it all " * 100}),
        "text too long": Broken(good, "characters_per_second", "filters.max_speaking_rate", {"text": "word " * 100}),
        "text too short": Broken(_wav(rate_hz=4_000), "characters_per_second", "'a' in 12.00 s", {"text": "a"}),
    }


def _m4a_without_sound() -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _long() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(sounds.waveform(2, 7.0, 8_000), 100), 8_000, format="FLAC")
    return buffer.getvalue()

"""What a file is, told from its first bytes, and how much of it is missing at its end.

The name of a file and the header of a server often lie; the first bytes seldom do. From them follows which decoder to
ask, and what to tell a person about a file that none can read.
"""

import struct
from dataclasses import dataclass

# Kinds that libsndfile reads, by the bytes that begin them.
_SOUNDFILE = (
    (b"RIFF", "wav"), (b"RIFX", "wav"), (b"RF64", "wav"), (b"riff\x2e\x91\xcf\x11", "wav"), (b"fLaC", "flac"),
    (b"OggS", "ogg"), (b"ID3", "mp3"), (b"FORM", "aiff"), (b".snd", "au"), (b"caff", "caf"), (b"NIST_1A", "sphere"),
)  # fmt: skip
# Kinds that need FFmpeg.
_CONTAINERS = (
    (b"\x1a\x45\xdf\xa3", "webm or matroska"), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"), (b"#!AMR", "amr"),
    (b"ADIF", "aac"), (b"FLV\x01", "flv"), (b"wvpk", "wavpack"), (b"MAC ", "monkey's audio"), (b"TTA1", "tta"),
    (b"\x0b\x77", "ac3"), (b"\x00\x00\x01\xba", "mpeg program stream"),
)  # fmt: skip
# What people find under the name of a recording.
_OTHERS = (
    (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"), (b"\x1f\x8b", "gzip-compressed data"), (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"BZh", "bzip2-compressed data"), (b"\xfd7zXZ", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"), (b"Rar!", "a rar archive"), (b"PAR1", "a Parquet table"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"\x93NUMPY", "a numpy array"), (b"Salted__", "data that openssl encrypted"),
)  # fmt: skip
_HEAD_BYTES = 512
# Programs that write to a pipe cannot know the length and put one of the largest there is.
_STREAMED_BYTES = 0x7FF0_0000

# Writers of headers round; so much may be missing, in seconds where the header says how many bytes one has.
_SLACK_S = 0.1
_SLACK_BYTES = 4096


@dataclass(frozen=True)
class WavHeader:
    """What a wav file says of itself; `missing_bytes` of its data are not there."""

    format_tag: int
    num_channels: int
    rate_hz: int
    bytes_a_second: int
    missing_bytes: int


def soundfile_kind(data: bytes) -> str | None:
    """The kind of audio file that libsndfile should read, None when it is no such file."""
    if data[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa", b"\xff\xe2", b"\xff\xe3"):
        return "mp3"
    return _match(data, _SOUNDFILE)


def container_kind(data: bytes) -> str | None:
    """The kind of audio or video file that FFmpeg should read and libsndfile does not, None for others."""
    if data[4:8] == b"ftyp":
        return "mp4 or m4a"
    if data[:2] in (b"\xff\xf1", b"\xff\xf9", b"\xff\xf0", b"\xff\xf8"):
        return "aac"
    if data[:4] == b"OggS" and b"Speex   " in data[:64]:
        return "speex"
    return _match(data, _CONTAINERS)


def describe(data: bytes) -> str:
    """What bytes that are no audio look like, for a person."""
    head = data[:_HEAD_BYTES]
    if other := _match(head, _OTHERS):
        return other
    if not any(head):
        return "zero bytes only"
    if any(byte < 9 or 13 < byte < 32 for byte in head):
        return f"bytes of no known kind that begin {data[:8].hex(' ')} (raw samples without a header, or encrypted)"
    lowered = head.lstrip().lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as a server sends for an error"
    if lowered.startswith(b"<?xml"):
        return "an XML document, as an object store sends for an error"
    return f"text: {head[:40].decode('utf-8', 'replace')!r}"


def wav_header(data: bytes) -> WavHeader | None:
    """The header of a RIFF wav file, None for other files and when it has none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    place, form, missing = 12, None, 0
    while place + 8 <= len(data):
        name, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
        if name == b"fmt " and place + 24 <= len(data):
            form = struct.unpack_from("<HHII", data, place + 8)
        if name == b"data":
            missing = 0 if size >= _STREAMED_BYTES else max(0, place + 8 + size - len(data))
            break
        place += 8 + size + size % 2
    if form is None:
        return None
    tag, num_channels, rate_hz, bytes_a_second = form
    return WavHeader(tag, num_channels, rate_hz, bytes_a_second, missing)


def is_cut(data: bytes) -> bool:
    """Whether an Ogg, wav, AIFF or au file lacks more of its end than rounding explains. Of others it is not known."""
    if data[:4] == b"OggS":
        return _ends_inside_page(data)
    if header := wav_header(data):
        return header.missing_bytes > _SLACK_S * header.bytes_a_second
    if len(data) < 12:
        return False
    size: int = struct.unpack_from(">I", data, 4 if data[:4] == b"FORM" else 8)[0]
    promised: int = {b"FORM": 8 + size, b".snd": struct.unpack_from(">I", data, 4)[0] + size}.get(data[:4], 0)
    return size < _STREAMED_BYTES and promised - len(data) > _SLACK_BYTES


def _ends_inside_page(data: bytes) -> bool:
    """Ogg pages name their length (RFC 3533, section 6)."""
    place = data.rfind(b"OggS\x00")
    if place < 0 or place + 27 > len(data):
        return True
    num_segments = data[place + 26]
    sizes = data[place + 27 : place + 27 + num_segments]
    return len(sizes) < num_segments or place + 27 + num_segments + sum(sizes) > len(data)


def _match(data: bytes, kinds: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((name for head, name in kinds if data.startswith(head)), None)

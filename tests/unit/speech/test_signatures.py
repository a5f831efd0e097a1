import numpy as np
import pytest

from cslm.speech import signatures
from tests.data.sounds import contained, encoded, tone, wav


@pytest.mark.parametrize(
    ("kind", "name"), [("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3"), ("AIFF", "aiff"), ("AU", "au")]
)
def test_files_of_libsndfile_are_known_and_whole(kind, name):
    data = encoded(tone(), kind=kind)
    assert signatures.soundfile_kind(data) == name
    assert signatures.container_kind(data) is None
    assert not signatures.is_cut(data)


@pytest.mark.parametrize(
    ("kind", "codec", "name"),
    [
        ("ipod", "aac", "mp4 or m4a"),
        ("adts", "aac", "aac"),
        ("webm", "libopus", "webm or matroska"),
        ("asf", "wmav2", "wma"),
    ],
)
def test_containers_are_known(kind, codec, name):
    assert signatures.container_kind(contained(tone(1.0, 48_000), 48_000, kind, codec)) == name


@pytest.mark.parametrize("kind", ["WAV", "OGG", "AIFF", "AU"])
def test_a_file_that_lost_its_end_is_cut(kind):
    data = encoded(tone(3.0), kind=kind)
    assert all(signatures.is_cut(data[:keep]) for keep in range(len(data) // 4, len(data) * 3 // 4, 997))


def test_the_header_of_a_wav_is_read_whatever_stands_before_the_data():
    data = wav(b"\0" * 100, rate_hz=8_000, channels=2, tag=7, claimed_bytes=150)
    extra = data[:36] + b"LIST" + (5).to_bytes(4, "little") + b"INFO\0\0" + data[36:]
    for one in (data, extra):
        header = signatures.wav_header(one)
        assert (header.format_tag, header.num_channels, header.rate_hz) == (7, 2, 8_000)
        assert header.missing_bytes == 50
    assert signatures.wav_header(data[:30]) is None
    assert signatures.wav_header(encoded(tone(), kind="FLAC")) is None


def test_no_bytes_whatever_break_the_reading_of_headers():
    rng = np.random.default_rng(0)
    heads = [b"RIFF\xff\xff\xff\xffWAVEfmt ", b"OggS\0", b"FORM", b".snd", b"", b"RIFF", b"\xff\xf1", b"ID3"]
    for head in heads:
        for size in (0, 1, 7, 20, 40, 500):
            data = head + rng.integers(0, 256, size, np.uint8).tobytes()
            signatures.is_cut(data)
            signatures.wav_header(data)
            assert isinstance(signatures.describe(data), str)

import numpy as np
import pytest

from cslm.errors import AudioError
from cslm.speech import audio, containers
from cslm.speech.audio import AudioSection, Recording, decode
from tests.data.sounds import contained, encoded, tone, wav, waveform


def reason_of(data: bytes, **options) -> str:
    with pytest.raises(AudioError) as caught:
        decode(data, 16_000, **options)
    # What must hold, what was found, what to do.
    assert "must" in str(caught.value)
    assert "found" in str(caught.value)
    assert ";" in str(caught.value)
    return caught.value.reason


def assert_is_the_tone(decoded, seconds, padding_s, rate_hz=16_000):
    """1 kHz and nothing else, as long as it was within the padding of the codec."""
    assert decoded.dtype == np.float32
    assert abs(len(decoded) / rate_hz - seconds) <= padding_s
    middle = decoded[rate_hz // 2 : rate_hz // 2 + rate_hz]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(rate_hz)))
    assert spectrum.argmax() == 1000
    assert np.concatenate((spectrum[:950], spectrum[1050:])).max() < 0.02 * spectrum[1000]
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.05)


WAV_KINDS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
SOUNDFILE_KINDS = [("WAV", kind) for kind in WAV_KINDS] + [
    ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"), ("AU", "ULAW"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("NIST", "PCM_16"),
    ("WAVEX", "PCM_24"),
]  # fmt: skip
CONTAINER_KINDS = [
    ("ipod", "aac"), ("mp4", "aac"), ("mp4", "alac"), ("adts", "aac"), ("webm", "libopus"), ("matroska", "aac"),
    ("asf", "wmav2"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), SOUNDFILE_KINDS)
def test_a_tone_in_any_format_of_libsndfile_comes_back(kind, subtype):
    padding_s = {"MP3": 0.08, "OGG": 0.02}.get(kind, 0.0)
    data = encoded(tone(2.0, 48_000), 48_000, kind, subtype)
    assert_is_the_tone(decode(data, 16_000), 2.0, padding_s)


@pytest.mark.parametrize(("kind", "codec"), CONTAINER_KINDS)
def test_a_tone_in_a_container_comes_back(kind, codec):
    padding_s = {"adts": 0.06, "matroska": 0.05, "asf": 0.1}.get(kind, 0.001)
    assert_is_the_tone(decode(contained(tone(2.0, 48_000), 48_000, kind, codec), 16_000), 2.0, padding_s)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats_give_the_same_samples(subtype):
    samples = waveform(1)
    decoded = decode(encoded(samples, subtype=subtype), 16_000)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - samples).max() < 1e-4


SPAN_KINDS = [*((kind, codec, encoded) for kind, codec in SOUNDFILE_KINDS[8:13]), ("ipod", "aac", contained),
              ("webm", "libopus", contained), ("adts", "aac", contained)]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "encode"), SPAN_KINDS)
def test_a_span_of_a_compressed_recording_is_the_same_part_of_the_whole(kind, codec, encode):
    data = encode(waveform(7, 6.0, 48_000), 48_000, kind, codec)
    whole = decode(data, 48_000)
    recording = Recording(data)
    for start_s, end_s in [(4.5, 5.25), (0.1, 1.0), (5.5, 5.9), (2.123, 4.567)]:
        span = recording.clip(48_000, start_s=start_s, end_s=end_s, limits=AudioSection()).samples
        first = round(start_s * 48_000)
        assert len(span) == round(end_s * 48_000) - first
        if kind == "webm":  # which tells times in milliseconds
            first = nearest_shift(whole, span, first, 48)
        difference = span - whole[first : first + len(span)]
        if encode is contained:  # FFmpeg's aac fills bands with noise that begins anew
            assert difference.std() < 0.1 * span.std()
        else:
            assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("read_on_s", [60, 0])
def test_overlapping_spans_of_an_mp3_are_parts_of_the_whole(read_on_s, monkeypatch, capfd):
    monkeypatch.setattr(audio, "_MP3_READ_ON_S", read_on_s)
    data = encoded(waveform(7, 6.0, 22_050), 22_050, "MP3")
    whole = decode(data, 22_050)
    recording = Recording(data)
    for first in range(200, len(whole) - 8_000, 487):
        span = recording.clip(22_050, start_s=first / 22_050, end_s=(first + 5_000) / 22_050, limits=AudioSection())
        assert np.abs(span.samples - whole[first : first + 5_000]).max() < 1e-3
    if read_on_s:
        assert capfd.readouterr().err == ""


def nearest_shift(whole, span, first, most):
    """Where the span lies, looked for by its middle so that a decoder's first frames do not decide."""
    middle = slice(len(span) // 4, len(span) // 2)
    differences = {
        first + shift: np.abs(whole[first + shift : first + shift + len(span)][middle] - span[middle]).max()
        for shift in range(-most, most + 1)
    }
    return min(differences, key=differences.get)


def test_a_long_recording_is_decoded_in_blocks_to_the_same_samples(monkeypatch):
    data = encoded(np.stack([waveform(3, 5.0, 44_100), waveform(4, 5.0, 44_100)], 1), 44_100, kind="FLAC")
    at_once = decode(data, 16_000)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 2 * 10_007)
    in_blocks = decode(data, 16_000)
    assert len(in_blocks) == len(at_once) == 80_000
    assert np.abs(in_blocks - at_once).max() < 1e-4
    streamed = np.concatenate(list(Recording(data).stream(16_000, "mean")))
    assert np.array_equal(streamed, in_blocks)


def test_a_flac_that_was_written_to_a_pipe_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr(containers, "installed", lambda: False)
    data = bytearray(encoded(waveform(5, 3.0), kind="FLAC"))
    length = int.from_bytes(data[18:26], "big")
    assert length & (2**36 - 1) == 48_000
    data[18:26] = (length >> 36 << 36).to_bytes(8, "big")
    recording = Recording(bytes(data))
    assert recording.length_s == 3.0
    assert np.abs(decode(bytes(data), 16_000) - waveform(5, 3.0)).max() < 1e-4
    span = recording.clip(16_000, start_s=1.0, end_s=2.0, limits=AudioSection()).samples
    assert np.abs(span - waveform(5, 3.0)[16_000:32_000]).max() < 1e-4


@pytest.mark.parametrize("claimed_bytes", [2**32 - 1, 0x7FFF_FFFF])
def test_a_wav_that_was_written_to_a_pipe_is_as_long_as_it_is(claimed_bytes):
    data = wav((waveform(5) * 32767).astype("<i2").tobytes(), claimed_bytes=claimed_bytes)
    assert len(decode(data, 16_000)) == 16_000


def test_containers_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setattr(containers, "installed", lambda: False)
    data = contained(tone(), 16_000, "ipod", "aac")
    assert reason_of(data) == "needs_av"
    with pytest.raises(AudioError, match=r"pip install 'cslm\[m4a\]'"):
        decode(data, 16_000)


def test_a_damaged_length_of_a_container_is_told():
    assert reason_of(contained(tone(), 16_000, "ipod", "aac")[:900]) == "corrupt"


def test_channels_are_averaged():
    left, right = waveform(1), waveform(2)
    decoded = decode(encoded(np.stack([left, right], 1), subtype="FLOAT"), 16_000)
    assert np.allclose(decoded, (left + right) / 2, atol=1e-6)
    first = decode(encoded(np.stack([left, right], 1), subtype="FLOAT"), 16_000, limits=AudioSection(channels="first"))
    assert np.allclose(first, left, atol=1e-6)


def test_any_number_of_channels_is_taken():
    samples = waveform(1)
    decoded = decode(encoded(np.stack([samples] * 24, 1), kind="WAV"), 16_000)
    assert np.abs(decoded - samples).max() < 1e-4
    # One that speaks among silent ones is faint, but there.
    alone = np.zeros((16_000, 8), np.float32)
    alone[:, 3] = samples
    assert np.abs(decode(encoded(alone, subtype="FLOAT"), 16_000) - samples / 8).max() < 1e-6
    stereo = decode(contained(np.stack([samples, samples], 1), 16_000, "ipod", "aac"), 16_000)
    assert stereo.std() == pytest.approx(samples.std(), rel=0.1)


def test_channels_that_cancel_each_other_are_told_and_can_be_taken_one_by_one():
    samples = waveform(1)
    data = encoded(np.stack([samples, -0.98 * samples], 1), subtype="FLOAT")
    assert reason_of(data) == "channels_cancel"
    assert np.allclose(decode(data, 16_000, limits=AudioSection(channels="first")), samples)


def test_the_share_of_clipped_samples_is_that_of_the_source():
    loud = np.clip(3 * waveform(1, 2.0, 48_000), -1, 1)
    share = float((np.abs(loud) >= 1).mean())
    assert 0.01 < share < 0.5
    for subtype in ("PCM_16", "FLOAT", "PCM_U8", "ULAW"):
        clip = Recording(encoded(loud, 48_000, subtype=subtype)).clip(16_000, limits=AudioSection())
        assert clip.clipped == pytest.approx(share, abs=0.01)
    assert Recording(encoded(waveform(1))).clip(16_000, limits=AudioSection()).clipped == 0


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_keeps_length_and_a_tone_and_lets_no_alias_through(rate_hz):
    time_s = np.arange(rate_hz) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time_s)
    decoded = decode(encoded(tone.astype(np.float32), rate_hz, subtype="FLOAT"), 16_000)
    assert len(decoded) == 16_000
    spectrum = np.abs(np.fft.rfft(decoded * np.hanning(16_000)))
    assert spectrum.argmax() == 1000
    assert spectrum[1200:].max() < 1e-3 * spectrum[1000]


def test_a_span_is_the_same_part_of_the_whole():
    samples = waveform(3, seconds=2)
    decoded = decode(encoded(samples, subtype="FLOAT"), 16_000, start_s=0.5, end_s=1.25)
    assert np.array_equal(decoded, samples[8000:20000])


def test_the_end_of_a_span_may_be_rounded_past_the_recording():
    assert len(decode(encoded(waveform(3)), 16_000, start_s=0.5, end_s=1.05)) == 8000


@pytest.mark.parametrize(
    "span", [{"start_s": -1.0}, {"start_s": 0.7, "end_s": 0.6}, {"start_s": 1.5}, {"end_s": 3.0}, {"end_s": 0.0}]
)
def test_spans_outside_their_recording_are_refused(span):
    assert reason_of(encoded(waveform(3)), **span) == "bad_span"


def test_a_wav_cut_short_is_told_unless_the_span_is_there():
    data = encoded(waveform(5, 2.0))
    assert reason_of(data[: len(data) // 2]) == "truncated"
    assert reason_of(data[: len(data) // 2], start_s=0.5, end_s=1.5) == "truncated"
    assert len(decode(data[: len(data) // 2], 16_000, start_s=0.2, end_s=0.9)) == 11_200
    # Less than a tenth of a second is a header that rounds.
    assert len(decode(data[:-1000], 16_000)) == 31_500


def test_limits_of_length():
    data = encoded(waveform(4))
    assert reason_of(data, limits=AudioSection(max_s=0.5)) == "too_long"
    assert reason_of(data, limits=AudioSection(min_s=1.5)) == "too_short"
    assert len(decode(data, 16_000, limits=AudioSection(min_s=1.0, max_s=1.0))) == 16_000


def test_the_length_of_refused_audio_is_told_where_it_is_known():
    with pytest.raises(AudioError) as caught:
        decode(encoded(np.zeros(32_000, np.float32)), 16_000)
    assert caught.value.audio_s == 2.0


DAMAGED_KINDS = [*((kind, subtype, encoded) for kind, subtype in SOUNDFILE_KINDS if subtype != "PCM_24"),
                 *((*kinds, contained) for kinds in CONTAINER_KINDS)]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "encode"), DAMAGED_KINDS)
def test_damage_of_any_kind_is_decoded_or_told_but_never_raises_another_error(kind, codec, encode):
    whole = encode(waveform(1, 0.3, 48_000), 48_000, kind, codec)
    rng = np.random.default_rng(len(whole))
    told = 0
    for number in range(30):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[rng.integers(len(data)) :]
        else:
            reach = len(data) if number % 3 == 1 else min(len(data), 200)
            places = rng.integers(0, reach, rng.integers(1, 20))
            for place in places.tolist():
                data[place] = rng.integers(256)
        try:
            decode(bytes(data), 16_000)
        except AudioError:
            told += 1
    assert told >= 5


def test_names_in_an_unknown_encoding_do_no_harm():
    data = contained(tone(), 16_000, "ipod", "aac")
    assert b"Lavf" in data
    assert len(decode(data.replace(b"Lavf", b"L\xe4vf"), 16_000)) == 16_000

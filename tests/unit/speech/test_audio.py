import numpy as np
import pytest

from cslm.errors import AudioError
from cslm.speech.audio import AudioSection, decode
from tests.data.sounds import encoded, waveform


def reason_of(data: bytes, **options) -> str:
    with pytest.raises(AudioError) as caught:
        decode(data, 16_000, **options)
    # What must hold, what was found, what to do.
    assert "must" in str(caught.value)
    assert "found" in str(caught.value)
    assert ";" in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats_give_the_same_samples(subtype):
    samples = waveform(1)
    decoded = decode(encoded(samples, subtype=subtype), 16_000)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - samples).max() < 1e-4


@pytest.mark.parametrize("kind", ["FLAC", "MP3", "OGG", "AIFF"])
def test_compressed_formats_are_read(kind):
    samples = waveform(2)
    decoded = decode(encoded(samples, kind=kind), 16_000)
    assert abs(len(decoded) - len(samples)) < 2000
    assert decoded.std() == pytest.approx(samples.std(), rel=0.1)


def test_channels_are_averaged():
    left, right = waveform(1), waveform(2)
    decoded = decode(encoded(np.stack([left, right], 1), subtype="FLOAT"), 16_000)
    assert np.allclose(decoded, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
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


def test_every_fault_of_the_data_has_its_reason():
    wav, flac = encoded(waveform(4)), encoded(waveform(4), kind="FLAC")
    nan = np.full(16_000, np.nan, np.float32)
    assert reason_of(b"") == "empty_file"
    assert reason_of(b"This is a text, whatever its name.\n") == "not_audio"
    assert reason_of(bytes(range(256)) * 8) == "not_audio"
    assert reason_of(wav[:20]) == "corrupt"
    assert reason_of(flac[: len(flac) // 2]) == "corrupt"
    assert reason_of(encoded(np.empty(0, np.float32))) == "no_samples"
    assert reason_of(encoded(np.zeros(16_000, np.float32))) == "silent"
    assert reason_of(encoded(nan, subtype="FLOAT")) == "not_finite"
    assert reason_of(encoded(waveform(4, seconds=0.05))) == "too_short"
    assert reason_of(wav, limits=AudioSection(max_s=0.5)) == "too_long"


def test_a_wav_cut_short_is_measured_by_what_it_holds():
    wav = encoded(waveform(5))
    assert len(decode(wav[: len(wav) // 2], 16_000)) < 8100
    assert reason_of(wav[:1000]) == "too_short"


def test_the_length_of_refused_audio_is_told_where_it_is_known():
    with pytest.raises(AudioError) as caught:
        decode(encoded(np.zeros(32_000, np.float32)), 16_000)
    assert caught.value.audio_s == 2.0

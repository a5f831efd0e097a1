import numpy as np
import pytest
import torch

from cslm.speech.recogniser import features
from tests.data.sounds import tone, waveform


def spectrum(samples, num_frames=None):
    return features.features(torch.from_numpy(samples), num_frames or len(samples) // features.HOP)


def test_frames_are_a_hundred_a_second_and_normalised():
    frames = spectrum(waveform(1, 2.0))
    assert frames.shape == (200, features.NUM_MELS)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.var(0, correction=0), torch.ones(80), atol=0.1, rtol=0)


@pytest.mark.parametrize("gain", [0.003, 0.3, 1.9])
def test_gain_does_not_matter(gain):
    samples = waveform(2, 1.5)
    torch.testing.assert_close(spectrum(samples * np.float32(gain)), spectrum(samples), atol=2e-3, rtol=0)


def test_a_tone_stands_in_its_band():
    power = features.log_mel(torch.from_numpy(tone(0.5, hz=1000.0)), 50)[25]
    mel = 2595 * np.log10(1 + np.array([20.0, 7600.0, 1000.0]) / 700)
    expected = (mel[2] - mel[0]) / (mel[1] - mel[0]) * 81 - 1
    assert abs(int(power.argmax()) - expected) < 1


def test_digital_silence_is_finite():
    assert torch.isfinite(spectrum(np.zeros(16_000, np.float32))).all()


def test_beyond_the_end_there_is_silence():
    samples = waveform(3, 0.5)
    longer = np.concatenate((samples, np.zeros(800, np.float32)))
    torch.testing.assert_close(
        features.log_mel(torch.from_numpy(longer), 50), features.log_mel(torch.from_numpy(samples), 50)
    )


def test_in_a_long_recording_a_frame_depends_on_its_neighbourhood_only():
    rng = np.random.default_rng(0)
    long = rng.normal(size=100 * 16_000).astype(np.float32) * np.repeat(rng.random(100), 16_000).astype(np.float32)
    changed = long.copy()
    changed[: 10 * 16_000] *= 5
    before, after = spectrum(long), spectrum(changed)
    # The floor and the normalisation look half a window to either side each.
    torch.testing.assert_close(after[4_100:], before[4_100:], atol=1e-5, rtol=0)
    assert (after[:1_000] - before[:1_000]).abs().max() > 0.1


def test_a_clip_as_long_as_the_window_is_normalised_whole():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=30 * 16_000).astype(np.float32)
    frames = spectrum(samples)
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-4, rtol=0)

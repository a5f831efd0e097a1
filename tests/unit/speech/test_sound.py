import numpy as np
import pytest

from cslm.speech.sound import HOP_S, Sound

RATE_HZ = 16_000


def tone(seconds, hz, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def quiet(seconds, level=0.0):
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-2])
@pytest.mark.parametrize("gain", [1.0, 0.02])
def test_silences_are_found_at_any_gain_and_in_noise(noise, gain):
    clip = np.concatenate([quiet(0.2), tone(0.5, 440), quiet(0.3), tone(0.4, 700), quiet(0.05)])
    sound = Sound(((clip + quiet(len(clip) / RATE_HZ, noise)) * gain).astype(np.float32), RATE_HZ)
    expected = [(0.0, 0.2), (0.7, 1.0), (1.4, 1.45)]
    assert [pytest.approx(one, abs=1.5 * HOP_S) for one in expected] == sound.silences


def test_a_closure_is_no_silence_and_a_loud_clip_has_none():
    assert Sound(np.concatenate([tone(0.3, 440), quiet(0.08), tone(0.3, 440)]), RATE_HZ).silences == []
    assert Sound(tone(1.0, 440), RATE_HZ).silences == []


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_the_spectrum_changes_where_the_sound_does(gain):
    parts = [tone(0.3, 300), tone(0.3, 2000), tone(0.3, 300) + tone(0.3, 4000)]
    sound = Sound((gain * (np.concatenate(parts) + quiet(0.9, 0.01))).astype(np.float32), RATE_HZ)
    tops = sorted(np.argsort(sound.change)[-2:].tolist())
    if tops[1] - tops[0] < 5:  # both beside one change
        tops = [tops[0], int(np.where(np.abs(np.arange(len(sound.change)) - tops[0]) > 10, sound.change, 0).argmax())]
    assert sorted(tops) == pytest.approx([30, 60], abs=1)


@pytest.mark.parametrize("num_samples", [1, 100, 400, 1200])
def test_clips_shorter_than_a_window_are_no_trouble(num_samples):
    sound = Sound(tone(1.0, 440)[:num_samples], RATE_HZ)
    assert np.isfinite(sound.change).all()
    assert all(0 <= start <= end <= sound.duration_s + HOP_S for start, end in sound.silences)


def test_digital_silence_is_all_silent():
    assert np.isfinite(Sound(np.zeros(RATE_HZ, np.float32), RATE_HZ).change).all()

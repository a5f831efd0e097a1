import numpy as np
import pytest

from cslm.train.recogniser.augment import AugmentSection, augment, mask

OFF = {"speed": 0, "warp": 0, "noise": 0, "band_limit": 0, "band_masks": 0, "frame_masks_a_second": 0}


def spectrum(num_frames=120):
    return np.random.default_rng(0).normal(size=(num_frames, 80)).astype(np.float32)


def varied(frames, seed=0, **changes):
    return augment(frames.copy(), AugmentSection(**(OFF | changes)), np.random.default_rng(seed))


def test_turned_off_nothing_changes():
    np.testing.assert_array_equal(varied(spectrum()), spectrum())
    np.testing.assert_array_equal(mask(spectrum(), AugmentSection(**OFF), np.random.default_rng(0)), spectrum())


@pytest.mark.parametrize("num_frames", [2, 4, 120])
def test_speed_changes_the_number_of_frames_which_stays_even(num_frames):
    lengths = {len(varied(spectrum(num_frames), seed, speed=0.13)) for seed in range(40)}
    assert all(length % 2 == 0 and length >= 2 for length in lengths)
    if num_frames == 120:
        assert min(lengths) < 112
        assert max(lengths) > 130


def test_stretching_keeps_what_is_there():
    ramp = np.repeat(np.linspace(0, 1, 100, dtype=np.float32)[:, None], 80, 1)
    slower = varied(ramp, 3, speed=0.13)
    np.testing.assert_allclose(slower[:, 0], np.linspace(0, 1, len(slower)), atol=1e-5)


def test_warping_moves_bands_up_or_down():
    peak = np.zeros((4, 80), np.float32)
    peak[:, 40] = 1
    places = {int(varied(peak, seed, warp=0.1)[0].argmax()) for seed in range(40)}
    assert min(places) < 39
    assert max(places) > 41


def test_noise_only_adds_and_stays_below_the_loudest():
    frames = spectrum() * 3
    noisy = varied(frames, noise=1)
    assert (noisy >= frames - 1e-4).all()
    assert noisy.mean() > frames.mean() + 0.5
    assert noisy.max() < frames.max() + 2


def test_a_band_limit_silences_high_bands():
    limited = varied(spectrum(), band_limit=1)
    assert (limited[:, 62:] == limited.min()).all()
    np.testing.assert_array_equal(limited[:, :45], spectrum()[:, :45])


def test_masks_leave_most_of_it():
    shares = [
        float((mask(spectrum(), AugmentSection(), np.random.default_rng(seed)) == 0).mean()) for seed in range(50)
    ]
    assert 0.05 < np.mean(shares) < 0.4
    assert len(mask(spectrum(2), AugmentSection(), np.random.default_rng(0))) == 2


def test_the_same_seed_varies_alike():
    every = {"speed": 0.1, "warp": 0.1, "noise": 0.5, "band_limit": 0.5}
    np.testing.assert_array_equal(varied(spectrum(), 5, **every), varied(spectrum(), 5, **every))
    assert (
        varied(spectrum(), 5, **every).shape != varied(spectrum(), 6, **every).shape
        or (varied(spectrum(), 5, **every) != varied(spectrum(), 6, **every)).any()
    )

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm import storage
from cslm.errors import CheckpointError
from cslm.speech import tokenizer as speech
from cslm.speech.clustering import fit_centroids
from cslm.speech.tokenizer import SpeechTokenizer
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import Features, KMeansTokenizer, dct_matrix, mel_filters
from tests.data.sounds import waveform

SETTINGS = KMeansSection(codebook_size=40, fit_iterations=5)


@pytest.fixture(scope="module")
def tokenizer():
    return KMeansTokenizer.fit([waveform(seed, 2) for seed in range(12)], SETTINGS)


def test_it_keeps_the_protocol(tokenizer):
    assert isinstance(tokenizer, SpeechTokenizer)
    assert (tokenizer.codebook_size, tokenizer.frame_rate_hz, tokenizer.max_window_s) == (40, 50.0, None)


@pytest.mark.parametrize("num_samples", [1, 100, 319, 320, 400, 16_000, 16_319, 16_320])
def test_a_clip_has_a_code_for_every_full_hop_and_at_least_one(tokenizer, num_samples):
    codes = tokenizer.encode([waveform(3, 2)[:num_samples]])[0]
    assert codes.dtype == np.uint16
    assert len(codes) == max(1, num_samples // 320)
    assert codes.max() < 40


@pytest.mark.parametrize("rate_hz", [12.5, 25.0, 40.0, 50.0, 100.0])
def test_at_every_frame_rate_all_of_the_audio_is_heard(rate_hz):
    features = Features(KMeansSection(frame_rate_hz=rate_hz))
    clip = waveform(4, 1.6)
    expected = features(clip)
    assert len(expected) == int(1.6 * rate_hz)
    for place in range(100, len(clip) - 100, 531):
        changed = clip.copy()
        changed[place : place + 60] *= -1
        assert not np.allclose(features(changed), expected, atol=1e-4), place


def test_a_frame_rate_that_falls_between_samples_is_refused():
    with pytest.raises(ValueError, match="whole number of samples"):
        KMeansSection(frame_rate_hz=30)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(100, 30_000), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_units_do_not_depend_on_the_batch(tokenizer, lengths, order):
    clips = [waveform(length, 3)[:length] for length in lengths]
    alone = [tokenizer.encode([clip])[0] for clip in clips]
    places = list(range(len(clips)))
    order.shuffle(places)
    together = tokenizer.encode([clips[place] for place in places])
    for place, codes in zip(places, together, strict=True):
        assert np.array_equal(codes, alone[place])


@pytest.mark.parametrize("gain", [0.01, 0.3, 1.9])
def test_units_do_not_depend_on_the_gain(tokenizer, gain):
    clip = waveform(20, 3)
    same = tokenizer.encode([clip])[0] == tokenizer.encode([clip * np.float32(gain)])[0]
    assert same.mean() > 0.99


def test_a_long_recording_is_computed_in_parts_without_a_seam(monkeypatch, tokenizer):
    clip = waveform(21, 5)
    whole = tokenizer.encode([clip])[0]
    monkeypatch.setattr("cslm.speech.tokenizers.kmeans._FRAMES_AT_ONCE", 7)
    assert np.array_equal(tokenizer.encode([clip])[0], whole)


def test_torch_computes_the_same_as_numpy(tokenizer, tmp_path):
    clips = [waveform(seed, 2) for seed in range(30, 36)]
    # This name of the CPU takes the way of all torch devices.
    on_torch = KMeansTokenizer(SETTINGS, tokenizer.codebook).to("cpu:0")
    expected, found = np.concatenate(tokenizer.encode(clips)), np.concatenate(on_torch.encode(clips))
    assert (expected == found).mean() > 0.995
    features = Features(SETTINGS)(clips[0]), Features(SETTINGS, "cpu:0")(clips[0]).numpy()
    assert np.allclose(*features, atol=2e-3)


def test_read_only_samples_are_taken(tokenizer):
    clip = waveform(22)
    clip.flags.writeable = False
    assert len(tokenizer.encode([clip])[0]) == 50


def test_features_are_normalised_and_of_the_size_told():
    for name, size in (("mfcc", 39), ("logmel", 40)):
        values = Features(KMeansSection(features=name))(waveform(1, 2))
        assert values.shape == (100, size)
        assert np.abs(values.mean(0)).max() < 1e-3
        assert np.allclose(values.std(0), 1, atol=0.05)


def test_a_tone_lands_in_the_mel_band_that_covers_it():
    bands = mel_filters()
    assert bands.shape == (257, 40)
    assert (bands.sum(0) > 0).all()
    tone_bin = round(1000 / 8000 * 256)
    covering = bands[tone_bin].argmax()
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)
    assert 700 * (10 ** (mel[covering] / 2595) - 1) < 1000 < 700 * (10 ** (mel[covering + 2] / 2595) - 1)


def test_the_cosine_transform_is_orthonormal():
    matrix = dct_matrix()
    assert np.allclose(matrix.T @ matrix, np.eye(13), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_fitting_finds_the_clusters_that_are_there(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, 8)) * 4
    drawn = rng.integers(0, 30, 3000)
    frames = (centres[drawn] + rng.normal(size=(3000, 8))).astype(np.float32)
    ours = fit_centroids(frames, 30, seed=seed, iterations=20)
    inertia = ((frames[:, None] - ours) ** 2).sum(2).min(1).sum()
    assert inertia < 1.25 * ((frames - centres[drawn]) ** 2).sum()


def test_fitting_is_the_same_for_the_same_seed_and_only_then(tokenizer):
    clips = [waveform(seed, 2) for seed in range(12)]
    assert KMeansTokenizer.fit(clips, SETTINGS).fingerprint == tokenizer.fingerprint
    other = SETTINGS.model_copy(update={"seed": 1})
    assert KMeansTokenizer.fit(clips, other).fingerprint != tokenizer.fingerprint


def test_fitting_more_units_than_frames_is_refused():
    with pytest.raises(CheckpointError, match="needs at least as many frames, found 50 in 1 clips"):
        KMeansTokenizer.fit([waveform(1)], KMeansSection(codebook_size=51))


def test_fewer_different_frames_than_units_still_give_a_codebook():
    frames = np.repeat(np.eye(3, dtype=np.float32), 10, 0)
    assert np.isfinite(fit_centroids(frames, 5, seed=0, iterations=20)).all()


def test_a_saved_tokenizer_is_the_same_again(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "saved"))
    loaded = speech.load("kmeans", str(tmp_path / "saved"))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert np.array_equal(loaded.encode([waveform(9)])[0], tokenizer.encode([waveform(9)])[0])
    assert speech.describe(str(tmp_path / "saved"))["fingerprint"] == tokenizer.fingerprint


def test_a_saved_tokenizer_that_was_changed_is_refused(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path))
    record = tmp_path / speech.SETTINGS_FILE
    document = storage.read_json(str(record))
    document["settings"]["features"] = "logmel"
    storage.write_json(str(record), document)
    with pytest.raises(CheckpointError, match="the folder was changed after it was saved"):
        speech.load("kmeans", str(tmp_path))
    record.unlink()
    with pytest.raises(CheckpointError, match="a tokenizer folder must hold"):
        speech.load("kmeans", str(tmp_path))


def test_on_a_cpu_torch_is_never_loaded():
    script = (
        "import sys, numpy as np\n"
        "from cslm.speech.tokenizers import KMeansSection\n"
        "from cslm.speech.tokenizers.kmeans import KMeansTokenizer\n"
        "clip = np.random.default_rng(0).normal(size=16000).astype(np.float32)\n"
        "KMeansTokenizer.fit([clip], KMeansSection(codebook_size=4)).encode([clip])\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": "platform"})

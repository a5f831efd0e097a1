import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm import storage
from cslm.errors import CheckpointError, ConfigError
from cslm.speech import tokenizer as speech
from cslm.speech.recogniser import recogniser as module
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizer import SpeechTokenizer, encode_all
from cslm.speech.tokenizers import LearnedSection
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data.sounds import waveform

CLIPS = [waveform(seed, seconds) for seed, seconds in enumerate((0.01, 0.3, 1.3, 1.3, 2.7, 0.99))]


def saved(frame_rate_hz=50.0, seed=0):
    torch.manual_seed(seed)
    shape = Shape(width=24, hidden=48, num_blocks=3, unit_block=2)
    recogniser = Recogniser(Network(shape, 5), Alphabet(("a", "b", "c", "d")))
    frames = torch.cat(recogniser.unit_frames([waveform(seed, 2.0) for seed in range(4)]))
    return LearnedTokenizer.pack(recogniser, frames[::10].clone(), frame_rate_hz)


@pytest.fixture(scope="module")
def tokenizer():
    return LearnedTokenizer(saved())


def test_it_is_a_speech_tokenizer_with_the_frames_it_says(tokenizer):
    assert isinstance(tokenizer, SpeechTokenizer)
    for clip, codes in zip(CLIPS, tokenizer.encode(CLIPS), strict=True):
        assert len(codes) == max(1, len(clip) // 320)
        assert codes.dtype == np.uint16
        assert codes.max() < tokenizer.codebook_size
    assert len(np.unique(np.concatenate(tokenizer.encode(CLIPS)))) > 10


def test_at_25_hz_there_are_half_as_many():
    tokenizer = LearnedTokenizer(saved(25.0))
    for clip, codes in zip(CLIPS, tokenizer.encode(CLIPS), strict=True):
        assert len(codes) == max(1, len(clip) // 640)


@settings(deadline=None, max_examples=15)
@given(chosen=st.lists(st.sampled_from(range(len(CLIPS))), min_size=1, max_size=6))
def test_a_clip_has_its_units_in_any_batch(tokenizer, chosen):
    together = encode_all(tokenizer, [CLIPS[i] for i in chosen])
    for number, sequence in zip(chosen, together, strict=True):
        alone = encode_all(tokenizer, [CLIPS[number]])[0]
        np.testing.assert_array_equal(sequence.units, alone.units)
        np.testing.assert_array_equal(sequence.durations, alone.durations)


def test_side_by_side_as_on_a_gpu_the_frames_are_those_of_each_alone(tokenizer, monkeypatch):
    expected = tokenizer.recogniser.unit_frames(CLIPS)
    monkeypatch.setattr(module, "_one_by_one", lambda device: False)
    for one, other in zip(tokenizer.recogniser.unit_frames(CLIPS), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_long_audio_is_computed_in_stretches_and_comes_out_as_in_one(tokenizer, monkeypatch):
    clip = waveform(9, 12.0)
    expected = tokenizer.recogniser.unit_frames([clip])[0]
    monkeypatch.setattr(module, "_STRETCH", {"cpu": 90})
    found = tokenizer.recogniser.unit_frames([clip])[0]
    assert len(found) == len(expected) == 600
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frame_rate_hz", [50.0, 25.0])
def test_a_stream_has_the_codes_of_the_whole(frame_rate_hz):
    tokenizer = LearnedTokenizer(saved(frame_rate_hz))
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(0.02, 1, 260), 16_000).astype(np.float32)
    whole = (waveform(1, 260.0) * loudness)[:-123]
    expected = tokenizer.encode([whole])[0]
    cuts = np.sort(rng.integers(0, len(whole), 40))
    parts = list(tokenizer.encode_stream(np.split(whole, cuts)))
    found = np.concatenate(parts)
    assert len(parts) > 2
    assert len(found) == len(expected)
    # Sums are taken over other stretches, so that a frame between two units may fall to the other one.
    assert (found == expected).mean() > 0.999


def test_a_short_stream_and_none_at_all(tokenizer):
    np.testing.assert_array_equal(
        np.concatenate(list(tokenizer.encode_stream([CLIPS[2][:5000], CLIPS[2][5000:]]))),
        tokenizer.encode([CLIPS[2]])[0],
    )
    assert list(tokenizer.encode_stream([])) == []


def test_a_folder_gives_the_same_units_and_its_fingerprint_is_of_its_content(tmp_path, tokenizer):
    for place in ("one", "two"):
        saved().save(str(tmp_path / place))
    described = speech.describe(str(tmp_path / "one"))
    assert described["fingerprint"] == speech.describe(str(tmp_path / "two"))["fingerprint"] == tokenizer.fingerprint
    assert saved(seed=1).document["fingerprint"] != tokenizer.fingerprint
    assert saved(25.0).document["fingerprint"] != tokenizer.fingerprint
    loaded = speech.load("learned", str(tmp_path / "one"))
    for one, other in zip(loaded.encode(CLIPS), tokenizer.encode(CLIPS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_folder_is_refused(tmp_path):
    saved().save(str(tmp_path))
    weights = storage.read_bytes(str(tmp_path / "model.safetensors"))
    storage.write_bytes(str(tmp_path / "model.safetensors"), weights[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="fingerprint"):
        speech.load("learned", str(tmp_path))


def test_without_a_folder_it_says_which_job_makes_one():
    with pytest.raises(ConfigError, match=r"jobs/fit_tokenizer\.py"):
        speech.make("learned", LearnedSection(), [])


def test_it_recognises_too(tokenizer):
    texts = tokenizer.recogniser.texts(CLIPS)
    assert len(texts) == len(CLIPS)
    assert set("".join(texts)) <= set("abcd")
    assert len(tokenizer.recogniser.texts(CLIPS[:2], beam=4)) == 2

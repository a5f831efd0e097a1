import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MimiModel

from cslm.errors import ConfigError
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import SpeechTokenizer
from cslm.speech.tokenizers import MimiSection
from cslm.speech.tokenizers.mimi import MimiTokenizer
from tests.data import networks
from tests.data.sounds import waveform

CLIPS = [waveform(seed, seconds, 24_000) for seed, seconds in enumerate((0.01, 0.6, 1.3, 1.3, 4.7))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return networks.mimi_folder(tmp_path_factory.mktemp("mimi"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return MimiTokenizer(MimiTokenizer.make(MimiSection(model=str(folder))))


def test_it_keeps_the_protocol(tokenizer):
    assert isinstance(tokenizer, SpeechTokenizer)
    assert (tokenizer.codebook_size, tokenizer.frame_rate_hz, tokenizer.sample_rate_hz) == (64, 12.5, 24_000)
    assert tokenizer.max_window_s is None
    assert tokenizer.codebook.shape == (64, 16)


def test_codes_are_the_semantic_ones_of_the_model(folder, tokenizer):
    model = MimiModel.from_pretrained(folder).eval()
    for clip in CLIPS:
        frames = -(-len(clip) // 1920)
        filled = np.pad(clip, (0, frames * 1920 - len(clip)))
        with torch.no_grad():
            expected = model.encode(torch.tensor(filled)[None, None]).audio_codes[0, 0].numpy()
        found = tokenizer.to("cpu").encode([clip])[0]
        assert len(found) == len(expected) == frames
        assert (found == expected).mean() > 0.98
    assert len(set(found.tolist())) > 20


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(100, 60_000), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_units_do_not_depend_on_the_batch(tokenizer, lengths, order):
    clips = [waveform(length, 4, 24_000)[:length] for length in lengths]
    networks.assert_units_do_not_depend_on_the_batch(tokenizer, clips, order)


@pytest.mark.parametrize("piece_s", [0.16, 1.04, 3.0])
def test_a_long_recording_is_computed_in_pieces_without_a_seam(tokenizer, monkeypatch, piece_s):
    # Longer than the window of the attention over all layers, which is 2 x 30 of 25 frames a second.
    clip = waveform(8, 7.3, 24_000)
    samples = tokenizer.to("cpu")._padded([clip], multiple=1920)
    with torch.no_grad():
        whole = tokenizer._latents(samples)
        codes = tokenizer.encode([clip])[0]
        monkeypatch.setattr("cslm.speech.tokenizers.mimi._PIECE_S", piece_s)
        pieces = tokenizer._latents(samples)
    assert torch.allclose(pieces, whole, atol=1e-3)
    assert np.array_equal(tokenizer.encode([clip])[0], codes)


def test_what_is_kept_is_enough_and_no_more(folder, tokenizer, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    MimiTokenizer.make(MimiSection(model=str(model))).save(str(tmp_path / "saved"))
    shutil.rmtree(model)
    loaded = speech.load("mimi", str(tmp_path / "saved"))
    assert loaded.fingerprint == tokenizer.fingerprint
    for codes, expected in zip(loaded.encode(CLIPS), tokenizer.to("cpu").encode(CLIPS), strict=True):
        assert np.array_equal(codes, expected)
    kept, given = (file.stat().st_size for file in (tmp_path / "saved/model.safetensors", folder / "model.safetensors"))
    assert kept < 0.7 * given


def test_after_encoding_the_network_can_be_used_with_gradients(folder):
    tokenizer = MimiTokenizer(MimiTokenizer.make(MimiSection(model=str(folder))))
    tokenizer.encode([CLIPS[1]])
    codebook = tokenizer._first_codebook
    values = torch.randn(3, 16, requires_grad=True)
    (values @ codebook.embed.T).sum().backward()
    assert values.grad is not None


def test_another_precision_is_another_tokenizer_of_much_the_same_codes(folder, tokenizer):
    reduced = MimiTokenizer(MimiTokenizer.make(MimiSection(model=str(folder), precision="bf16")))
    assert reduced.dtype == torch.bfloat16
    assert reduced.fingerprint != tokenizer.fingerprint
    expected, found = (np.concatenate(one.encode(CLIPS)) for one in (tokenizer.to("cpu"), reduced))
    assert 0.85 < (expected == found).mean() <= 1


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    folder = networks.mimi_folder(tmp_path, use_causal_conv=False)
    with pytest.raises(ConfigError, match="must be causal and take audio of 24000 Hz, found 24000 Hz, causal False"):
        MimiTokenizer.make(MimiSection(model=str(folder)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_units_are_those_of_the_cpu(tokenizer):
    expected, found = (np.concatenate(tokenizer.to(device).encode(CLIPS)) for device in ("cpu", "cuda"))
    assert (expected == found).mean() > 0.99


def test_a_published_model_gives_units_that_do_not_depend_on_the_batch(tmp_path):
    model = os.environ.get("CSLM_MIMI_MODEL")
    if not model:
        pytest.skip("CSLM_MIMI_MODEL names no folder")
    MimiTokenizer.make(MimiSection(model=model)).save(str(tmp_path))
    tokenizer = speech.load("mimi", str(tmp_path))
    alone = np.concatenate(tokenizer.encode(CLIPS))
    together = np.concatenate(tokenizer.to("cpu:0").encode(CLIPS))
    assert (alone == together).mean() > 0.99

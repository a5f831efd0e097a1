import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, HubertConfig, HubertForCTC

from cslm.errors import CheckpointError, ConfigError
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import SpeechTokenizer, encode_all
from cslm.speech.tokenizers import HubertSection
from cslm.speech.tokenizers.hubert import FAMILIES, HubertTokenizer
from tests.data import networks
from tests.data.sounds import waveform

CLIPS = [waveform(seed, seconds) for seed, seconds in enumerate((0.01, 0.6, 1.3, 1.3, 2.7))]
FITTED_ON = [waveform(seed, 2) for seed in range(20, 30)]
SHAPES = [(family, norm) for family in FAMILIES for norm in ("group", "layer")]


def section(folder, **changes):
    return HubertSection(**{"model": str(folder), "layer": 2, "codebook_size": 40, "max_window_s": 8.0, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {(family, norm): networks.hubert_folder(root / family / norm, family, norm) for family, norm in SHAPES}


@pytest.fixture(scope="module")
def folder(folders):
    return folders["hubert", "group"]


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {
        shape: HubertTokenizer(HubertTokenizer.make(section(folder), FITTED_ON)) for shape, folder in folders.items()
    }


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers["hubert", "group"]


def test_it_keeps_the_protocol(tokenizers):
    for tokenizer in tokenizers.values():
        assert isinstance(tokenizer, SpeechTokenizer)
        assert (tokenizer.codebook_size, tokenizer.frame_rate_hz, tokenizer.max_window_s) == (40, 50.0, 8.0)
        assert tokenizer.codebook.shape == (40, 32)
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == len(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_units_are_the_nearest_centroids_of_the_layer_as_transformers_computes_it(shape, folders, tokenizers):
    model, tokenizer = AutoModel.from_pretrained(folders[shape]).eval(), tokenizers[shape].to("cpu")
    for clip in CLIPS[1:]:
        normalised = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
        with torch.no_grad():
            hidden = model(torch.tensor(normalised)[None], output_hidden_states=True).hidden_states[2][0].numpy()
        expected = ((hidden[:, None] - tokenizer.codebook) ** 2).sum(2).argmin(1)
        found = tokenizer.encode([clip])[0]
        assert len(found) == len(expected) == (len(clip) - 400) // 320 + 1
        assert (found == expected).mean() > 0.99
        assert len(set(found.tolist())) > 5


def test_a_clip_shorter_than_a_frame_has_one_code(tokenizer):
    assert [len(codes) for codes in tokenizer.encode([CLIPS[0], CLIPS[0][:1]])] == [1, 1]


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from(SHAPES),
    st.lists(st.integers(100, 40_000), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
def test_units_do_not_depend_on_the_batch(tokenizers, shape, lengths, order):
    tokenizer = tokenizers[shape]
    clips = [waveform(length, 3)[:length] for length in lengths]
    networks.assert_units_do_not_depend_on_the_batch(tokenizer, clips, order)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_layer_gives_does_not_depend_on_padding(shape, tokenizers):
    tokenizer = tokenizers[shape].to("cpu")
    with torch.no_grad():
        together = tokenizer._frames(CLIPS)
        for clip, frames in zip(CLIPS, together, strict=True):
            assert torch.allclose(tokenizer._frames([clip])[0], frames, atol=1e-4)


def test_the_first_norm_alone_would_hear_the_padding(tokenizer, monkeypatch):
    # The test above can fail: without the lengths the norm over time takes the padding in.
    monkeypatch.setattr(type(tokenizer._layer._norm), "lengths_B", None, raising=False)
    monkeypatch.setattr(type(tokenizer._layer._norm), "forward", lambda self, values: self.norm(values))
    with torch.no_grad():
        together = tokenizer._frames(CLIPS)
        assert not torch.allclose(tokenizer._frames([CLIPS[2]])[0], together[2], atol=1e-2)


def test_a_long_recording_has_the_frames_of_the_whole(tokenizer):
    for num_samples in (8 * 16_000, 8 * 16_000 + 1, 8 * 16_000 + 399, 20 * 16_000 + 77):
        clip = waveform(5, 21)[:num_samples]
        assert encode_all(tokenizer, [clip])[0].num_frames == (num_samples - 400) // 320 + 1


def test_a_saved_tokenizer_is_whole_without_the_model_it_came_from(folder, tokenizer, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    HubertTokenizer.make(section(model), FITTED_ON).save(str(tmp_path / "saved"))
    shutil.rmtree(model)
    loaded = speech.load("hubert", str(tmp_path / "saved"))
    assert loaded.fingerprint == tokenizer.fingerprint
    for codes, expected in zip(loaded.encode(CLIPS), tokenizer.to("cpu").encode(CLIPS), strict=True):
        assert np.array_equal(codes, expected)
    # What lies above the layer is not kept.
    names = load_file(tmp_path / "saved" / "model.safetensors").keys()
    assert {name.split(".")[2] for name in names if name.startswith("encoder.layers.")} == {"0", "1"}
    assert len(loaded._layer._network.encoder.layers) == 2


def test_each_setting_that_moves_codes_moves_the_fingerprint(folder, tokenizer):
    fingerprints = {tokenizer.fingerprint}
    changes = ({"layer": 1}, {"codebook_size": 39}, {"normalize": False}, {"max_window_s": 9.0}, {"seed": 1})
    for change in (*changes, {"precision": "bf16"}):
        made = HubertTokenizer.make(section(folder, **change), FITTED_ON[:2])
        fingerprints.add(made.document["fingerprint"])
    assert len(fingerprints) == len(changes) + 2


def test_a_model_with_a_head_is_taken_without_it(tmp_path):
    torch.manual_seed(0)
    settings = networks._SMALL_ENCODER | {"num_hidden_layers": 2, "vocab_size": 12}
    HubertForCTC(HubertConfig(**settings)).save_pretrained(tmp_path)
    made = HubertTokenizer.make(section(tmp_path, normalize=True), FITTED_ON)
    assert len(HubertTokenizer(made).encode([CLIPS[2]])[0]) == 64


@pytest.mark.parametrize("fault", ["layer", "family", "no config", "normalize", "rate", "weights", "frames"])
def test_what_cannot_be_used_is_told(folder, tmp_path, fault):
    model = shutil.copytree(folder, tmp_path / "model")
    changes, error = {}, ConfigError
    if fault == "layer":
        changes, expected = {"layer": 4}, "tokenizer.hubert.layer: must be one of the 3 layers of .*, found 4"
    elif fault == "family":
        changes = {"model": str(networks.mimi_folder(tmp_path / "mimi"))}
        expected = "must hold a model of type hubert or wav2vec2 or wavlm, found 'mimi'"
    elif fault == "no config":
        (model / "config.json").unlink()
        expected = "must be a Hugging Face folder with config.json and weights"
    elif fault == "normalize":
        (model / "preprocessor_config.json").unlink()
        expected = "tokenizer.hubert.normalize: must be given where the model does not say it"
    elif fault == "rate":
        (model / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 24_000, "do_normalize": True}))
        expected = "must take audio of 16000 Hz, found 24000"
    elif fault == "weights":
        weights = load_file(model / "model.safetensors")
        weights.pop("encoder.layers.1.attention.q_proj.weight")
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        error, expected = CheckpointError, "found 1 missing or of another shape, encoder.layers.1.attention.q_proj"
    else:
        changes, error = {"codebook_size": 2000}, CheckpointError
        expected = "fitting 2000 units needs at least as many frames, found 990"
    with pytest.raises(error, match=expected):
        HubertTokenizer.make(section(model, **changes), FITTED_ON)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_at_its_published_size_units_do_not_depend_on_the_batch(family, tmp_path):
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    positions = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "conv_dim": (512,) * 7}
    folder = networks.hubert_folder(tmp_path, family, **base, **positions)
    tokenizer = HubertTokenizer(HubertTokenizer.make(section(folder, layer=9), FITTED_ON))
    alone = np.concatenate(tokenizer.encode(CLIPS))
    together = np.concatenate(tokenizer.to("cpu:0").encode(CLIPS))
    assert (alone == together).mean() > 0.995


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu_units_are_those_of_the_cpu(shape, tokenizers):
    expected, found = (np.concatenate(tokenizers[shape].to(device).encode(CLIPS)) for device in ("cpu", "cuda"))
    assert (expected == found).mean() > 0.99


def test_a_published_model_gives_units_that_do_not_depend_on_the_batch(tmp_path):
    model = os.environ.get("CSLM_HUBERT_MODEL")
    if not model:
        pytest.skip("CSLM_HUBERT_MODEL names no folder")
    HubertTokenizer.make(section(model), FITTED_ON).save(str(tmp_path))
    tokenizer = speech.load("hubert", str(tmp_path))
    alone = np.concatenate(tokenizer.encode(CLIPS))
    together = np.concatenate(tokenizer.to("cpu:0").encode(CLIPS))
    assert (alone == together).mean() > 0.99

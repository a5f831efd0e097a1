import itertools
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cslm import storage
from cslm.errors import CheckpointError, MissingDependency
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import SpeechTokenizer, encode_all
from cslm.speech.tokenizers import S3Section
from cslm.speech.tokenizers.s3 import VARIANTS, S3Tokenizer
from tests.data import networks
from tests.data.sounds import waveform

CLIPS = [waveform(seed, seconds) for seed, seconds in enumerate((0.05, 0.6, 1.3, 1.3, 2.7, 5.2))]


@pytest.fixture(scope="module")
def states():
    return {variant: networks.s3_state(variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def onnx_files(states, tmp_path_factory):
    # Names that would mislead whoever goes by them.
    folder = tmp_path_factory.mktemp("v1_25hz")
    return {
        variant: networks.s3_onnx(folder / f"v2_{number}.bin", variant, states[variant])
        for number, variant in enumerate(VARIANTS)
    }


@pytest.fixture(scope="module")
def tokenizers(onnx_files):
    return {
        variant: S3Tokenizer(S3Tokenizer.make(S3Section(weights=str(file), variant=variant)))
        for variant, file in onnx_files.items()
    }


@pytest.fixture(params=list(VARIANTS))
def tokenizer(request, tokenizers):
    return tokenizers[request.param].to("cpu")


def test_it_keeps_the_protocol(tokenizers):
    for variant, tokenizer in tokenizers.items():
        assert isinstance(tokenizer, SpeechTokenizer)
        expected = VARIANTS[variant].frame_rate_hz, VARIANTS[variant].codebook_size
        assert (tokenizer.frame_rate_hz, tokenizer.codebook_size) == expected
        assert (tokenizer.sample_rate_hz, tokenizer.max_window_s) == (16_000, 30.0)
        assert len(tokenizer.codebook) == tokenizer.codebook_size
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == len(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_codes_are_those_of_the_package(variant, tokenizers, states):
    from s3tokenizer import log_mel_spectrogram
    from s3tokenizer.model import ModelConfig, S3Tokenizer
    from s3tokenizer.model_v2 import ModelConfig as ModelConfigV2
    from s3tokenizer.model_v2 import S3TokenizerV2
    from s3tokenizer.model_v3 import ModelConfigV3, S3TokenizerV3

    network_class, config = {
        "speech_tokenizer_v1": (S3Tokenizer, ModelConfig),
        "speech_tokenizer_v1_25hz": (S3Tokenizer, ModelConfig),
        "speech_tokenizer_v2_25hz": (S3TokenizerV2, ModelConfigV2),
        "speech_tokenizer_v3_25hz": (S3TokenizerV3, ModelConfigV3),
    }[variant]
    network = network_class(variant, config(n_audio_state=networks.S3_WIDTH, n_audio_head=2)).eval()
    network.load_state_dict(states[variant])
    for clip in CLIPS[1:]:
        mel = log_mel_spectrogram(torch.tensor(clip))
        codes, lengths = network.quantize(mel[None], torch.tensor([mel.shape[1]]))
        found = tokenizers[variant].to("cpu").encode([clip])[0]
        assert len(found) == lengths[0] == -(-len(clip) // 160 // round(100 / VARIANTS[variant].frame_rate_hz))
        assert (codes[0].numpy() == found).mean() > 0.99
        assert len(set(found.tolist())) > 5


@settings(deadline=None, max_examples=5)
@given(
    st.sampled_from(list(VARIANTS)),
    st.lists(st.integers(100, 40_000), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
def test_units_do_not_depend_on_the_batch(tokenizers, variant, lengths, order):
    tokenizer = tokenizers[variant]
    clips = [waveform(length, 3)[:length] for length in lengths]
    networks.assert_units_do_not_depend_on_the_batch(tokenizer, clips, order)


def test_what_the_encoder_gives_does_not_depend_on_padding(tokenizer):
    from s3tokenizer import log_mel_spectrogram, padding

    encoder = tokenizer._network.encoder
    mels, lengths = padding([log_mel_spectrogram(torch.tensor(clip)) for clip in CLIPS[1:]])
    with torch.no_grad():
        together, frames = encoder(mels, lengths)
        for row, length, hidden, count in zip(mels, lengths, together, frames, strict=True):
            alone, _ = encoder(row[None, :, :length], length[None])
            assert torch.allclose(alone[0], hidden[:count], atol=1e-3, rtol=1e-4)


def test_a_long_recording_has_the_frames_of_the_whole(tokenizer):
    clip = waveform(3, 33.39)
    [sequence] = encode_all(tokenizer, [clip])
    per_code = 100 / tokenizer.frame_rate_hz
    assert sequence.num_frames == -(-len(clip) // 160 // per_code)


def test_the_same_weights_are_the_same_tokenizer_whatever_file_they_come_in(states, tokenizers, tmp_path):
    variant = "speech_tokenizer_v2_25hz"
    torch.save(states[variant], tmp_path / "a.onnx")
    (tmp_path / "b.pt").write_bytes(save(states[variant]))
    for name in ("a.onnx", "b.pt"):
        made = S3Tokenizer.make(S3Section(weights=str(tmp_path / name), variant=variant))
        assert made.document["fingerprint"] == tokenizers[variant].fingerprint


def test_a_variant_that_the_weights_are_not_of_is_refused(onnx_files, states, tmp_path):
    for variant, other in itertools.permutations(VARIANTS, 2):
        with pytest.raises(CheckpointError, match=rf"weights of {other} have .*; they are those of {variant}: set it"):
            S3Tokenizer.make(S3Section(weights=str(onnx_files[variant]), variant=other))
    # A state dict has no strides in it, so that of v1 may be either.
    (tmp_path / "v1").write_bytes(save(states["speech_tokenizer_v1"]))
    for other in ("speech_tokenizer_v2_25hz", "speech_tokenizer_v3_25hz"):
        with pytest.raises(
            CheckpointError, match="they are those of speech_tokenizer_v1 or speech_tokenizer_v1_25hz: set it"
        ):
            S3Tokenizer.make(S3Section(weights=str(tmp_path / "v1"), variant=other))


class Trap:
    def __reduce__(self):
        return (os._exit, (7,))


@pytest.mark.parametrize("content", ["text", "pickle", "other weights", "lists", "nothing", "cut"])
def test_files_that_hold_no_weights_of_a_tokenizer_are_refused(states, tmp_path, content):
    path, variant = tmp_path / "weights.pt", "speech_tokenizer_v2_25hz"
    state = states[variant]
    if content == "text":
        path.write_text("<html>not found</html>")
        expected = "must be the published .onnx, or its state dict"
    elif content == "pickle":
        torch.save({"a": Trap()}, path)
        expected = "must be the published .onnx, or its state dict"
    elif content == "other weights":
        changed = {name: value for name, value in state.items() if name != "encoder.conv2.bias"} | {"b": torch.ones(1)}
        path.write_bytes(save(changed))
        expected = r"found 1 missing \['encoder.conv2.bias'\], 1 unknown \['b'\], 0 of another shape"
    elif content == "lists":
        torch.save({"a": [1]}, path)
        expected = "found something other than tensors by name"
    elif content == "nothing":
        expected = "found no file at"
    else:
        path.write_bytes(save(state)[:5000])
        expected = "must be the published .onnx, or its state dict"
    with pytest.raises(CheckpointError, match=expected):
        S3Tokenizer.make(S3Section(weights=str(path), variant=variant))


def test_a_saved_tokenizer_is_the_same_again_and_holds_no_pickle(tokenizer, onnx_files, tmp_path):
    variant = tokenizer._network.name
    S3Tokenizer.make(S3Section(weights=str(onnx_files[variant]), variant=variant)).save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", speech.SETTINGS_FILE]
    loaded = speech.load("s3", str(tmp_path))
    assert loaded.fingerprint == tokenizer.fingerprint == speech.describe(str(tmp_path))["fingerprint"]
    for codes, expected in zip(loaded.encode(CLIPS), tokenizer.encode(CLIPS), strict=True):
        assert np.array_equal(codes, expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_is_another_tokenizer_of_much_the_same_codes(tokenizers, onnx_files, precision):
    variant = "speech_tokenizer_v1"
    section = S3Section(weights=str(onnx_files[variant]), variant=variant, precision=precision)
    reduced = S3Tokenizer(S3Tokenizer.make(section))
    assert reduced.dtype != torch.float32
    assert reduced.fingerprint != tokenizers[variant].fingerprint
    expected, found = (np.concatenate(one.encode(CLIPS)) for one in (tokenizers[variant].to("cpu"), reduced))
    assert 0.9 < (expected == found).mean() < 1


def test_auto_keeps_to_fp32_where_bf16_moves_codes(onnx_files, monkeypatch):
    variant = "speech_tokenizer_v1"
    section = S3Section(weights=str(onnx_files[variant]), variant=variant, precision="auto")
    assert section.making_audio_s > 0
    made = S3Tokenizer.make(section, CLIPS)
    assert made.document["settings"]["precision"] == "fp32"
    assert made.document["precision_check"]["codes"] == sum(map(len, S3Tokenizer(made).encode(CLIPS)))
    assert section.agrees(made.document["settings"])
    monkeypatch.setattr("cslm.speech.tokenizers.networks.SAME_CODES", 0.9)
    made = S3Tokenizer.make(section, CLIPS)
    assert made.document["settings"]["precision"] == "bf16"
    assert section.agrees(made.document["settings"])
    assert not S3Section(variant=variant).agrees(made.document["settings"])


def test_a_missing_package_is_told_with_what_brings_it(onnx_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3tokenizer", None)
    section = S3Section(weights=str(onnx_files["speech_tokenizer_v1"]), variant="speech_tokenizer_v1")
    with pytest.raises(
        MissingDependency, match=r"needs the package s3tokenizer.*pip install 'cslm\[s3tokenizer\]'"
    ) as told:
        S3Tokenizer.make(section)
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_codes_of_finite_scalar_quantization_stand_for_their_digits(tokenizers):
    codebook = tokenizers["speech_tokenizer_v2_25hz"].codebook
    assert codebook.shape == (6561, 8)
    assert codebook[0].tolist() == [-1] * 8
    assert codebook[1].tolist() == [0] + [-1] * 7
    assert ((codebook + 1) @ 3 ** np.arange(8)).tolist() == list(range(6561))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["speech_tokenizer_v1", "speech_tokenizer_v2_25hz"])
def test_at_its_published_size_units_do_not_depend_on_the_batch(variant, monkeypatch):
    monkeypatch.setattr(networks, "S3_WIDTH", 1280)
    tokenizer = S3Tokenizer(S3Tokenizer.pack(variant, networks.s3_state(variant)))
    alone = np.concatenate(tokenizer.encode(CLIPS))
    together = np.concatenate(tokenizer.to("cpu:0").encode(CLIPS))
    assert len(set(alone.tolist())) > 20
    assert (alone == together).mean() > 0.995


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_units_are_those_of_the_cpu(tokenizer):
    expected, found = (np.concatenate(tokenizer.to(device).encode(CLIPS)) for device in ("cpu", "cuda"))
    assert (expected == found).mean() > 0.99


def test_published_weights_give_units_that_do_not_depend_on_the_batch(tmp_path):
    weights, variant = os.environ.get("CSLM_S3_WEIGHTS"), os.environ.get("CSLM_S3_VARIANT", "speech_tokenizer_v1")
    if not weights:
        pytest.skip("CSLM_S3_WEIGHTS names no file (CSLM_S3_VARIANT says which variant it is of)")
    S3Tokenizer.make(S3Section(weights=weights, variant=variant)).save(str(tmp_path))
    tokenizer = speech.load("s3", str(tmp_path))
    alone = np.concatenate(tokenizer.encode(CLIPS))
    together = np.concatenate(tokenizer.to("cpu:0").encode(CLIPS))
    assert (alone == together).mean() > 0.99
    assert storage.exists(str(tmp_path / "model.safetensors"))

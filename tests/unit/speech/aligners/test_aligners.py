"""Aligners from folders as users have them: of jobs/fit_tokenizer.py, and Hugging Face models with random weights."""

import json
import shutil

import numpy as np
import pytest
import torch

from cslm.errors import CheckpointError, ConfigError
from cslm.speech import aligned, aligners
from cslm.speech.aligned import Aligned, LimitsSection
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data import networks, sounds

ANY = LimitsSection(min_score=None)


def learned(path):
    torch.manual_seed(0)
    network = Network(Shape(width=16, hidden=32, num_blocks=2, unit_block=1), 6)
    recogniser = Recogniser(network, Alphabet((" ", "a", "b", "é", "山")))
    LearnedTokenizer.pack(recogniser, torch.randn(4, 16), 50.0).save(str(path))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    return str(networks.ctc_folder(tmp_path / "ctc"))


def test_the_learned_recogniser_spells_as_transcripts_are_written(tmp_path):
    described = aligners.describe(learned(tmp_path / "learned"), {})
    aligner = aligners.load(described)
    assert described["kind"] == "learned"
    assert aligner.spell("AÉ’b", "fr") == [("a", 2), ("é", 4), (" ", 1), ("b", 3)]
    assert aligner.spell("xa", "fr") == [("x", None), ("a", 2)]
    assert aligner.separator("fr") == 1
    [log_probs_FV] = aligner.log_probs([sounds.waveform(0)], "fr")
    assert log_probs_FV.shape == (50, 6)
    assert np.exp(log_probs_FV).sum(1) == pytest.approx(np.ones(50), abs=1e-5)
    found = aligned.align(aligner, [sounds.waveform(0)], ["ab é 山"], "fr", 0.04, ANY)
    assert isinstance(found[0], Aligned)


@pytest.mark.parametrize(("family", "norm"), [("wav2vec2", "group"), ("wav2vec2", "layer"), ("hubert", "layer")])
def test_a_hugging_face_model_tells_what_it_is_and_aligns(family, norm, tmp_path):
    path = str(networks.ctc_folder(tmp_path / "ctc", family=family, norm=norm))
    described = aligners.describe(path, {})
    assert described["kind"] == "huggingface"
    aligner = aligners.load(described)
    assert (aligner.frame_rate_hz, aligner.blank, aligner.separator("en")) == (50.0, 0, 4)
    # Capital letters are what this vocabulary has; one apostrophe is as good as another.
    assert [one for one, symbol in aligner.spell("it’s-é", "en") if symbol is None] == ["é"]
    clips = [sounds.waveform(seed, 0.6 + 0.3 * seed) for seed in range(3)]
    together = aligner.log_probs(clips, "en")
    for clip, found in zip(clips, together, strict=True):
        assert found.shape == ((len(clip) - 400) // 320 + 1, 32)
        assert np.array_equal(found, aligner.log_probs([clip], "en")[0])
    assert isinstance(aligned.align(aligner, clips[:1], ["It's so"], "en", 0.04, ANY)[0], Aligned)


def test_a_batch_of_clips_is_the_same_as_each_alone(tmp_path):
    path = str(networks.ctc_folder(tmp_path / "ctc", norm="layer"))
    aligner = aligners.load(aligners.describe(path, {}))
    clips = [aligner._prepared(sounds.waveform(seed, 0.5 + 0.4 * seed)) for seed in range(3)]
    for clip, found in zip(clips, aligner._batch(clips), strict=True):
        assert found == pytest.approx(aligner._batch([clip])[0], abs=1e-4)


def test_features_are_normalised_as_the_folder_says(folder, tmp_path):
    aligner = aligners.load(aligners.describe(folder, {}))
    clip = sounds.waveform(0)
    assert aligner.log_probs([clip], "en")[0] == pytest.approx(aligner.log_probs([clip * 0.1], "en")[0], abs=1e-3)
    plain = shutil.copytree(folder, tmp_path / "plain")
    (plain / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "sampling_rate": 16_000}))
    other = aligners.load(aligners.describe(str(plain), {}))
    assert not np.allclose(other.log_probs([clip], "en")[0], other.log_probs([clip * 0.1], "en")[0], atol=1e-3)


def test_a_long_recording_goes_in_windows(folder):
    aligner = aligners.load(aligners.describe(folder, {}))
    clip = sounds.waveform(0, 41.0)
    [whole] = aligner.log_probs([clip], "en")
    assert len(whole) == (len(clip) - 400) // 320 + 1


def test_adapters_of_a_model_of_many_languages(tmp_path):
    path = networks.ctc_folder(tmp_path / "mms", norm="layer", adapters={"eng": "abc", "cmn": "山水火木"})
    described = aligners.describe(str(path), {"en": "eng", "zh": "cmn"})
    aligner = aligners.load(described)
    assert aligner.spell("ab山", "en") == [("a", 5), ("b", 6), ("山", None)]
    assert aligner.spell("山", "zh-CN") == [("山", 5)]
    clip = sounds.waveform(0)
    english, chinese, again = (aligner.log_probs([clip], language)[0] for language in ("en", "zh-CN", "en"))
    assert (english.shape[1], chinese.shape[1]) == (8, 9)
    assert np.array_equal(english, again)
    with pytest.raises(ConfigError, match=r"which adapter of .* serves the language fr.*there are cmn, eng"):
        aligner.spell("a", "fr")
    assert aligners.describe(str(path), {"en": "eng"})["fingerprint"] != described["fingerprint"]


def test_the_fingerprint_is_by_content(folder, tmp_path):
    first = aligners.describe(folder, {})
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert aligners.describe(str(copy), {})["fingerprint"] == first["fingerprint"]
    (copy / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "sampling_rate": 16_000}))
    assert aligners.describe(str(copy), {})["fingerprint"] != first["fingerprint"]
    # What is known by its listing is not read again.
    known = {**first, "fingerprint": "told before", "latency_s": 0.05}
    assert aligners.describe(folder, {}, known) == known
    assert aligners.describe(folder, {"en": "x"}, known)["fingerprint"] != "told before"


def test_folders_that_hold_no_aligner_are_told_apart(folder, tmp_path):
    KMeansTokenizer.fit([sounds.waveform(0)], KMeansSection(codebook_size=10)).save(str(tmp_path / "kmeans"))
    with pytest.raises(ConfigError, match="found a tokenizer of kind kmeans"):
        aligners.describe(str(tmp_path / "kmeans"), {})
    with pytest.raises(ConfigError, match="found neither at"):
        aligners.describe(str(tmp_path / "nothing"), {})
    networks.hubert_folder(tmp_path / "hubert")
    with pytest.raises(ConfigError, match=r"must be one for CTC, found \['HubertModel'\]"):
        aligners.describe(str(tmp_path / "hubert"), {})
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="download the folder again"):
        aligners.load(aligners.describe(str(damaged), {}))

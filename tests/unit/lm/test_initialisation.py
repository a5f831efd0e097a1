import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm import storage
from cslm.errors import ConfigError
from cslm.lm import initialisation, text_tokenizer
from cslm.lm import model as lm_model
from cslm.lm.model import ModelSection
from tests.unit.lm.conftest import TEXTS

NUM_UNITS = 2000
CODEBOOK = np.random.default_rng(0).normal(size=(NUM_UNITS, 20)).astype(np.float32)
CODEBOOK[1::2] = CODEBOOK[::2] + 0.05


def given_model(folder, tied):
    """A text model whose rows have a mean and a covariance of their own, in the head others than in the embeddings."""
    tokenizer = text_tokenizer.train(TEXTS, vocab_size=320)
    torch.manual_seed(0)
    shape = {**lm_model.SHAPES["micro"], "hidden_size": 16}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=tied, initializer_range=0.03, **shape)
    model = AutoModelForCausalLM.from_config(config)
    for number, weight in enumerate(matrices(model)):
        mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(number))
        weight.data = torch.randn(weight.shape) @ mixing + torch.linspace(-2, 3, 16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def matrices(model):
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return weights[:1] if weights[0] is weights[1] else weights


def prepare(folder, codebook=CODEBOOK, seed=3, **section):
    layout = lm_model.prepare(
        str(folder),
        ModelSection(**section),
        texts=lambda: TEXTS,
        num_units=NUM_UNITS,
        unit_tokenizer="abc",
        frame_rate_hz=25.0,
        codebook=lambda: codebook,
        seed=seed,
    )
    return layout, AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def given(request, tmp_path_factory):
    return given_model(tmp_path_factory.mktemp("given") / "model", request.param)


def made(given, tmp_path, way):
    """Pairs of text rows and new rows, of embeddings and of a head of its own."""
    layout, model = prepare(tmp_path / "start", path=given, initialisation=way)
    before = matrices(AutoModelForCausalLM.from_pretrained(given))
    after = [weight.detach() for weight in matrices(model)]
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new.shape[0] == layout.num_rows
        assert torch.equal(new[: layout.num_text], old[: layout.num_text])
    assert lm_model.initialised_by(str(tmp_path / "start")) == way
    return layout, [(weight[: layout.num_text], weight[layout.num_text :]) for weight in after]


def test_default_is_what_the_model_draws_its_own_rows_from(given, tmp_path):
    for _, new in made(given, tmp_path, "default")[1]:
        assert new.std().item() == pytest.approx(0.03, rel=0.05)
        assert abs(new.mean().item()) < 0.001


def test_mean_is_the_texts_mean_and_no_two_rows_are_the_same(given, tmp_path):
    for text, new in made(given, tmp_path, "mean")[1]:
        assert ((new - text.mean(0)).abs() < 0.15 * text.std(0)).all()
        assert len(new.bfloat16().unique(dim=0)) == len(new)


def test_covariance_is_a_sample_of_the_texts_gaussian(given, tmp_path):
    for text, new in made(given, tmp_path, "covariance")[1]:
        deviation = text.std(0)
        # Errors of sampling: 1/sqrt(N) of a deviation in the mean, about sqrt(2/N) of two in the covariance.
        assert ((new.mean(0) - text.mean(0)).abs() < 5 * deviation / len(new) ** 0.5).all()
        error = (torch.cov(new.T) - torch.cov(text.T)).abs() / (deviation[:, None] * deviation)
        assert error.max() < 5 * (2 / len(new)) ** 0.5


def test_codebook_keeps_neighbours_and_takes_the_texts_mean_and_spread(given, tmp_path):
    for text, new in made(given, tmp_path, "codebook")[1]:
        units = new[:NUM_UNITS]
        nearest = torch.cdist(units, units).fill_diagonal_(torch.inf).argmin(1)
        assert torch.equal(nearest, torch.arange(NUM_UNITS) ^ 1)
        centred = (text - text.mean(0)).std()
        torch.testing.assert_close(units.mean(0), text.mean(0), atol=1e-3, rtol=0)
        assert (units - units.mean(0)).std().item() == pytest.approx(centred.item(), rel=0.01)


@pytest.mark.parametrize("way", ["default", "mean", "covariance", "codebook"])
def test_marks_are_new_rows_too(given, tmp_path, way):
    layout, found = made(given, tmp_path, way)
    for text, new in found:
        marks = new[layout.num_units : layout.num_units + len(layout.specials)]
        assert torch.isfinite(marks).all()
        assert len(marks.unique(dim=0)) == len(marks)
        bound = 0.2 if way == "default" else 8 * text.std() + text.mean(0).abs().max()
        assert (marks.abs() < bound).all()


@pytest.mark.parametrize("way", ["default", "mean", "covariance", "codebook"])
def test_a_head_that_begins_at_zero_stays_there(tmp_path, way):
    _, model = prepare(tmp_path / "start", shape="micro", text_vocab_size=320, initialisation=way)
    assert not model.get_output_embeddings().weight.any()
    assert model.get_input_embeddings().weight.any(1).all()


def test_another_way_or_seed_makes_the_start_model_anew(given, tmp_path):
    found = [
        matrices(prepare(tmp_path / "start", path=given, initialisation=way, seed=seed)[1])[0]
        for way, seed in (("mean", 3), ("covariance", 3), ("covariance", 4), ("covariance", 4))
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    assert torch.equal(found[2], found[3])


def test_auto_notes_what_it_stood_for(given, tmp_path):
    prepare(tmp_path / "start", path=given)
    wanted = initialisation.chosen("auto", from_scratch=False, has_codebook=True)
    assert lm_model.initialised_by(str(tmp_path / "start")) == wanted != "auto"
    prepare(tmp_path / "more", path=str(tmp_path / "start"))
    assert lm_model.initialised_by(str(tmp_path / "more")) is None
    written = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    prepare(tmp_path / "start", path=given)
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == written


def test_a_codebook_that_is_not_there_is_refused(given, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.initialisation: codebook needs a tokenizer"):
        prepare(tmp_path / "start", codebook=None, path=given, initialisation="codebook")
    assert not storage.exists(str(tmp_path / "start"))

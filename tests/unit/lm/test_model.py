import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from cslm import storage
from cslm.errors import CheckpointError, ConfigError
from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer
from cslm.lm.model import ModelSection
from tests.unit.lm.conftest import TEXTS

# Twenty units in four heaps: what sounds alike is known by construction.
HEAPS = np.repeat(np.arange(4), 5)
CODEBOOK = (np.random.default_rng(0).normal(size=(4, 39))[HEAPS] * 3).astype(np.float32)
CODEBOOK += np.random.default_rng(1).normal(size=CODEBOOK.shape).astype(np.float32) * 0.1


def prepare(folder, codebook=CODEBOOK, unit_tokenizer="abc", **section):
    layout = lm_model.prepare(
        str(folder),
        ModelSection(**{"shape": "micro", "text_vocab_size": 320, **section}),
        texts=lambda: TEXTS,
        num_units=len(HEAPS),
        unit_tokenizer=unit_tokenizer,
        frame_rate_hz=25.0,
        codebook=lambda: codebook,
        seed=3,
    )
    return layout, AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach()


def assert_heaps(embedding, layout):
    units = embedding[layout.num_text : layout.num_text + layout.num_units]
    distances = torch.cdist(units, units)
    same = torch.from_numpy(HEAPS[:, None] == HEAPS)
    assert distances[same].max() < 0.5 * distances[~same].min()
    text = embedding[: layout.num_text]
    assert units.std().item() == pytest.approx(text.std().item(), rel=0.2)


def test_units_that_sound_alike_begin_with_embeddings_that_are_alike(tmp_path):
    layout, embedding = prepare(tmp_path / "start")
    assert_heaps(embedding, layout)
    again = prepare(tmp_path / "again")[1]
    assert torch.equal(embedding, again)


def test_the_same_seed_gives_the_same_model_whatever_the_number_of_threads(tmp_path):
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append(prepare(tmp_path / str(count), shape="mini")[1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_so_do_units_that_a_given_model_learns_to_hear(tmp_path):
    """A user's folder has text embeddings of its own mean and spread; units are placed among them."""
    tokenizer = text_tokenizer.train(TEXTS, vocab_size=320)
    layout = lm_model._extend(tokenizer, 0, "none", 25.0)
    torch.manual_seed(0)
    model = lm_model._from_shape(ModelSection(shape="micro"), tokenizer, layout)
    model.get_input_embeddings().weight.data.mul_(0.1).add_(0.02)
    given = tmp_path / "given"
    model.save_pretrained(given)
    text_tokenizer.train(TEXTS, vocab_size=320).save_pretrained(given)
    layout, embedding = prepare(tmp_path / "start", path=str(given))
    assert_heaps(embedding, layout)
    before = model.get_input_embeddings().weight.detach()
    assert torch.equal(embedding[: layout.num_text], before[: layout.num_text])


def test_rows_with_which_a_given_model_was_filled_up_are_made_anew(tmp_path):
    """In embeddings and head, although the model has more rows than are needed."""
    tokenizer = text_tokenizer.train(TEXTS, vocab_size=320)
    layout = lm_model._extend(tokenizer, 200, "none", 25.0)
    model = lm_model._from_shape(ModelSection(shape="micro"), tokenizer, layout)
    plain = text_tokenizer.train(TEXTS, vocab_size=320)
    for weight in (model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data):
        torch.nn.init.normal_(weight[: len(plain)], 1.0, 0.1)
        weight[len(plain) :] = 99.0
    model.save_pretrained(tmp_path / "given")
    plain.save_pretrained(tmp_path / "given")
    layout, embedding = prepare(tmp_path / "start", codebook=None, path=str(tmp_path / "given"))
    head = lm_model.load(str(tmp_path / "start")).get_output_embeddings().weight
    for weight in (embedding, head):
        assert weight.shape[0] == layout.num_rows < 500
        torch.testing.assert_close(
            weight[layout.num_text :].mean(0), weight[: layout.num_text].mean(0), atol=0.05, rtol=0
        )


def test_whoever_serves_the_model_is_told_the_mark_that_ends_a_turn(tmp_path):
    """A base model ends documents only."""
    tokenizer = text_tokenizer.train(TEXTS, vocab_size=320)
    layout = lm_model._extend(tokenizer, 0, "none", 25.0)
    model = lm_model._from_shape(ModelSection(shape="micro"), tokenizer, layout)
    model.generation_config.eos_token_id = document_end = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "given")
    text_tokenizer.train(TEXTS, vocab_size=320).save_pretrained(tmp_path / "given")
    prepare(tmp_path / "start", path=str(tmp_path / "given"))
    prepare(tmp_path / "own")
    turn_end = tokenizer.convert_tokens_to_ids(text_tokenizer.TURN_END)
    assert GenerationConfig.from_pretrained(tmp_path / "start").eos_token_id == [document_end, turn_end]
    assert GenerationConfig.from_pretrained(tmp_path / "own").eos_token_id == turn_end


def test_without_a_codebook_units_begin_at_random(tmp_path):
    layout, embedding = prepare(tmp_path / "start", codebook=None)
    units = embedding[layout.num_text : layout.num_text + layout.num_units]
    assert torch.cdist(units, units).fill_diagonal_(torch.inf).min() > 0


def test_a_model_with_these_units_is_taken_as_it_is(tmp_path):
    layout, embedding = prepare(tmp_path / "base")
    copied, same = prepare(tmp_path / "start", path=str(tmp_path / "base"))
    assert copied == layout
    assert torch.equal(same, embedding)
    names = [{storage.name(file) for file in storage.list_files(str(tmp_path / part))} for part in ("base", "start")]
    assert names[0] == names[1]


def test_a_start_made_from_another_model_is_refused_with_both_hashes(tmp_path):
    started, _ = prepare(tmp_path / "start")
    other, _ = prepare(tmp_path / "other", text_vocab_size=310)
    with pytest.raises(CheckpointError, match=f"vocabulary {other.hash}, found {started.hash}"):
        prepare(tmp_path / "start", path=str(tmp_path / "other"))


def test_a_start_of_other_settings_or_of_a_changed_model_is_made_anew(tmp_path):
    _, embedding = prepare(tmp_path / "base")
    _, wider = prepare(tmp_path / "base", shape="mini")
    assert wider.shape[1] > embedding.shape[1]
    prepare(tmp_path / "start", path=str(tmp_path / "base"))
    before = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    prepare(tmp_path / "start", path=str(tmp_path / "base"))
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == before
    prepare(tmp_path / "base", shape="micro")
    assert torch.equal(prepare(tmp_path / "start", path=str(tmp_path / "base"))[1], embedding)


def test_a_reader_has_the_tokenizer_and_vocabulary_of_the_model_to_be(tmp_path):
    facts = {"num_units": len(HEAPS), "unit_tokenizer": "abc", "frame_rate_hz": 25.0}
    section = ModelSection(shape="micro", text_vocab_size=320)
    tokenizer, before = lm_model.reader(str(tmp_path / "start"), section, texts=lambda: TEXTS, **facts)
    assert not (tmp_path / "start").exists()
    layout, _ = prepare(tmp_path / "start")
    assert before == layout
    again, after = lm_model.reader(str(tmp_path / "start"), section, texts=lambda: 1 / 0, **facts)
    assert after == layout
    assert again.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(CheckpointError, match="abc"):
        lm_model.reader(str(tmp_path / "start"), section, texts=list, **{**facts, "unit_tokenizer": "other"})


def test_an_unknown_shape_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must be one of micro, mini, .*, found huge"):
        prepare(tmp_path / "start", shape="huge")

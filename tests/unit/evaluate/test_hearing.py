import json

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from cslm.errors import CheckpointError
from cslm.evaluate import hearing
from tests.data import tables, untrained

CLIPS = [np.zeros(8000, np.float32), np.random.default_rng(0).normal(size=12_000).astype(np.float32)]


def write_whisper(folder):
    """A Whisper of a few thousand weights, with a vocabulary of bytes."""
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder.mkdir()
    letters = sorted(ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>"]
    specials += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in specials}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=32,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config.update(
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|zh|>": ids["<|zh|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=20,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)


def test_the_recogniser_of_a_learned_tokenizer_listens(tmp_path):
    untrained.write_listener(tmp_path / "listener")
    listener = hearing.load(str(tmp_path / "listener"), "cpu")
    assert listener.name == hearing.describe(str(tmp_path / "listener"))
    assert listener.name.startswith("recogniser of the learned tokenizer ")
    texts = listener.texts(CLIPS, "en")
    assert len(texts) == 2
    assert set("".join(texts)) <= set(" ".join(tables.WORDS))


def test_a_whisper_from_a_folder_listens_in_the_language_it_is_told(tmp_path):
    write_whisper(tmp_path / "whisper-none")
    listener = hearing.load(str(tmp_path / "whisper-none"), "cpu")
    assert listener.name.startswith("Whisper whisper-none (")
    texts = listener.texts([*CLIPS, np.zeros(31 * hearing.SAMPLE_RATE_HZ, np.float32)], "zh-CN")
    assert len(texts) == 3
    assert all(isinstance(text, str) for text in texts)


def test_what_cannot_listen_is_refused(tmp_path):
    tables.TOKENIZER.save(str(tmp_path / "kmeans"))
    for path in (tmp_path, tmp_path / "kmeans"):
        with pytest.raises(CheckpointError, match="must hold a recogniser"):
            hearing.describe(str(path))

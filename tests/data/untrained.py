"""A model, a voice and a listener that know nothing, over the small tables: what they give is chance."""

from pathlib import Path

import torch

from cslm.lm import model
from cslm.lm.model import ModelSection
from cslm.lm.vocabulary import Vocabulary
from cslm.speech.decoder import saved
from cslm.speech.decoder.networks import DecoderShape
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data import tables


def write(folder: Path) -> Vocabulary:
    """Make a model in `folder`, of the tokenizer of `tables`: it foretells every token of its vocabulary alike."""
    return model.prepare(
        str(folder),
        ModelSection(shape="micro", text_vocab_size=320, max_length=512),
        texts=lambda: [" ".join(tables.WORDS)] * 4,
        num_units=tables.NUM_UNITS,
        unit_tokenizer=tables.TOKENIZER.fingerprint,
        frame_rate_hz=50.0,
        codebook=lambda: None,
        seed=0,
    )


def write_voice(folder: Path) -> None:
    """Make a speech decoder in `folder` whose units each sound like some noise."""
    shape = DecoderShape(tables.NUM_UNITS, 50.0)
    rng = torch.Generator().manual_seed(0)
    size = shape.mels_a_frame * shape.mel.num_bands
    voice_V = torch.cat((torch.full((shape.mel.num_bands,), -4.0), torch.ones(shape.mel.num_bands)))
    saved.save(
        str(folder),
        {
            "patches": torch.randn(tables.NUM_UNITS, size, generator=rng),
            "durations": torch.ones(tables.NUM_UNITS),
            "voices_SV": voice_V[None],
        },
        kind="griffin_lim",
        tokenizer=tables.TOKENIZER.fingerprint,
        speakers=["noise"],
        default_speaker="noise",
        settings={},
        network=shape.config(),
    )


def write_listener(folder: Path) -> None:
    """Make a recogniser in `folder` that writes down some letters or other."""
    torch.manual_seed(0)
    alphabet = Alphabet.of([" ".join(tables.WORDS)])
    network = Network(Shape(width=16, hidden=32, num_blocks=2, unit_block=1), alphabet.num_symbols)
    LearnedTokenizer.pack(Recogniser(network, alphabet), torch.randn(4, 16), 50.0).save(str(folder))

"""A model that knows nothing, over the small tables: it foretells every token of its vocabulary alike."""

from pathlib import Path

from cslm.lm import model
from cslm.lm.model import ModelSection
from cslm.lm.vocabulary import Vocabulary
from tests.data import tables


def write(folder: Path) -> Vocabulary:
    """Make the model in `folder`, of the tokenizer of `tables`."""
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

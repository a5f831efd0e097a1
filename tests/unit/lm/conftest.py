import pytest

from cslm.lm import text_tokenizer, vocabulary

TEXTS = ["Two plus three is five.", "二加三等于五。", "Dos más tres son cinco.", "What is it? It is red."] * 3


@pytest.fixture
def joint():
    """A small text tokenizer with 20 units merged in, and the layout of the joint vocabulary."""
    tokenizer = text_tokenizer.train(TEXTS, vocab_size=400)
    layout = vocabulary.extend(tokenizer, num_units=20, unit_tokenizer="abc", frame_rate_hz=50.0)
    return tokenizer, layout

"""A language model that says anything: of random weights, so that what it may say is up to the decoding alone."""

from pathlib import Path

import torch

from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer
from cslm.lm.model import ModelSection

TEXTS = ["Two plus three is five.", "二加三等于五。", "Dos más tres son cinco.", "What is it? It is red."] * 3


def model_folder(path: Path, *, num_units: int = 20, tokenizer: str = "abc", max_length: int = 256) -> str:
    """A small model of units of a speech tokenizer (its fingerprint)."""
    start = path.parent / f"{path.name}-start"
    layout = lm_model.prepare(
        str(start),
        ModelSection(shape="micro", text_vocab_size=320, max_length=max_length),
        texts=lambda: TEXTS,
        num_units=num_units,
        unit_tokenizer=tokenizer,
        frame_rate_hz=25.0,
        codebook=lambda: None,
        seed=3,
    )
    model = lm_model.load(str(start), torch.float32)
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    lm_model.save(str(path), model, text_tokenizer.load(str(start)), layout)
    return str(path)

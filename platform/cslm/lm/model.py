"""The language model as a Hugging Face folder: made from a named shape or a user's folder, units and specials merged.

The folder is finished and saved before training shards it: embeddings are never resized under ZeRO-3, and every rank
and every later job opens the same files.
"""

import shutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cslm import storage
from cslm.config import Section, group, setting
from cslm.errors import ConfigError
from cslm.lm import attention, initialisation, text_tokenizer, vocabulary
from cslm.lm.initialisation import Initialisation
from cslm.lm.lora import LoraSection
from cslm.lm.prompts import ChatFrame
from cslm.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Llama shapes for models from scratch. `mini` and `tiny` learn a small corpus in CPU-minutes, `small` in CPU-hours.
SHAPES: dict[str, dict[str, int]] = {
    "micro": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 2},
    "mini": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3, "num_attention_heads": 4},
    "tiny": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "base": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}


_EMBEDDING_STD = 0.5
_MADE_OF = "cslm_start.json"
# In it, what was done and not only what was asked for.
_USED = "initialised_by"


class ModelSection(Section):
    """The model that training starts from."""

    path: str | None = setting(None, "local Hugging Face causal-LM folder to start from; from scratch when not given")
    shape: str = setting("tiny", f"Llama shape of a model from scratch: {', '.join(SHAPES)}")
    text_vocab_size: int = setting(
        2000, "size of the text tokenizer trained on the corpus for a model from scratch", unit="tokens", ge=300
    )
    max_length: int = setting(2048, "longest sequence of a model from scratch", unit="tokens", ge=16)
    initialisation: Initialisation = setting(
        "auto",
        "what rows of units and marks begin as: default: as the model's own were drawn; mean, covariance: from the "
        "text's rows; codebook: from what units stand for; auto: what was measured best",
    )
    lora: LoraSection = group(LoraSection, "low-rank adapters instead of the layers' own weights")


def prepare(
    folder: str,
    section: ModelSection,
    *,
    texts: Callable[[], Iterable[str]],
    num_units: int,
    unit_tokenizer: str,
    frame_rate_hz: float,
    codebook: Callable[[], npt.NDArray[np.float32] | None],
    seed: int,
) -> Vocabulary:
    """Make the folder that training starts from, unless it is there already, and return its vocabulary.

    A folder that was made by other settings, or of another state of the given model, is made anew.

    `texts` gives the corpus text for a new text tokenizer, `codebook` what each unit stands for, [num_units, D] or
    None when that is unknown; each is called only when it is needed. Raises CheckpointError when a
    given model's units are another tokenizer's, ConfigError for an unknown shape.
    """
    made_of = _made_of(section, seed)
    if vocabulary.has_vocabulary(folder):
        layout = vocabulary.load(folder)
        layout.require_units_of([unit_tokenizer], folder)
        if section.path is not None and vocabulary.has_vocabulary(storage.absolute(section.path)):
            vocabulary.load(storage.absolute(section.path)).require_same(layout, folder)
        if made_of == _noted(folder):
            return layout
        storage.remove(folder)
    if section.path is None:
        if section.shape not in SHAPES:
            raise ConfigError(f"model.shape: must be one of {', '.join(SHAPES)}, found {section.shape}")
        tokenizer = text_tokenizer.train(texts(), vocab_size=section.text_vocab_size)
        layout = _extend(tokenizer, num_units, unit_tokenizer, frame_rate_hz)
        torch.manual_seed(seed)
        model = _from_shape(section, tokenizer, layout)
        made_of |= {_USED: _fill(model, layout, section, codebook())}
        _note_stop(model, tokenizer)
        save(folder, model, tokenizer, layout, made_of=made_of)
        return layout
    with storage.local_folder(storage.absolute(section.path)) as source:
        if vocabulary.has_vocabulary(source):
            layout = vocabulary.load(source)
            layout.require_units_of([unit_tokenizer], section.path)
            # Nothing is added, so nothing has to be loaded.
            with storage.published_folder(folder) as target:
                shutil.copytree(source, target, dirs_exist_ok=True)
                storage.write_json(storage.join(target, _MADE_OF), made_of)
            return layout
        tokenizer = text_tokenizer.load(source)
        layout = _extend(tokenizer, num_units, unit_tokenizer, frame_rate_hz)
        torch.manual_seed(seed)
        model = load(source)
        # Down to the text first: rows behind it, with which many models fill up their tiles, were never trained.
        model.resize_token_embeddings(layout.num_text)
        model.resize_token_embeddings(layout.num_rows, mean_resizing=False)
        made_of |= {_USED: _fill(model, layout, section, codebook())}
        _note_stop(model, tokenizer)
        save(folder, model, tokenizer, layout, made_of=made_of)
    return layout


def _made_of(section: ModelSection, seed: int) -> dict[str, Any]:
    """What a start folder follows from beside the corpus, to know it by later."""
    if section.path is None:
        return {**section.model_dump(exclude={"path", "lora"}), "seed": seed}
    files = storage.listing_digest(storage.absolute(section.path))
    if vocabulary.has_vocabulary(storage.absolute(section.path)):
        return {"path": storage.absolute(section.path), "files": files}
    drawn = {"initialisation": section.initialisation, "seed": seed}
    return {"path": storage.absolute(section.path), "files": files, **drawn}


def _noted(folder: str) -> dict[str, Any] | None:
    note = storage.join(folder, _MADE_OF)
    if not storage.exists(note):
        return None
    return {name: value for name, value in storage.read_json(note).items() if name != _USED}


def initialised_by(folder: str) -> str | None:
    """How the new rows of a start folder were drawn; None when the model had its units before."""
    note = storage.join(folder, _MADE_OF)
    used: str | None = storage.read_json(note).get(_USED) if storage.exists(note) else None
    return used


def reader(
    folder: str,
    section: ModelSection,
    *,
    texts: Callable[[], Iterable[str]],
    num_units: int,
    unit_tokenizer: str,
    frame_rate_hz: float,
) -> "tuple[PreTrainedTokenizerFast, Vocabulary]":
    """Tokenizer and vocabulary that `prepare` makes for the same arguments, without any weights; nothing is written."""
    for place in (folder, section.path and storage.absolute(section.path)):
        if place and vocabulary.has_vocabulary(place):
            with storage.local_folder(place) as source:
                layout = vocabulary.load(source)
                layout.require_units_of([unit_tokenizer], place)
                return text_tokenizer.load(source), layout
    if section.path is None:
        tokenizer = text_tokenizer.train(texts(), vocab_size=section.text_vocab_size)
    else:
        with storage.local_folder(storage.absolute(section.path)) as source:
            tokenizer = text_tokenizer.load(source)
    return tokenizer, _extend(tokenizer, num_units, unit_tokenizer, frame_rate_hz)


def load(folder: str, dtype: torch.dtype | str = "auto", *, packed: bool = False) -> "PreTrainedModel":
    """Open a local causal-LM folder; nothing is ever fetched. `packed` is for training on packed rows only."""
    from transformers import AutoModelForCausalLM

    if packed:
        attention.register()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, attn_implementation=attention.NAME if packed else None
    )
    if packed:
        attention.require_supported(model)
    return model


def hidden_size(folder: str) -> int:
    """Width of the embeddings of a model folder, without opening its weights."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().hidden_size)


def save(
    folder: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    layout: Vocabulary,
    *,
    made_of: dict[str, Any] | None = None,
) -> None:
    """Write model, tokenizer and vocabulary as one folder, whole or absent.

    `made_of` is noted in the folder of a start model.
    """
    with storage.published_folder(folder) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        layout.save(target)
        if made_of is not None:
            storage.write_json(storage.join(target, _MADE_OF), made_of)


def _extend(tokenizer: Any, num_units: int, unit_tokenizer: str, frame_rate_hz: float) -> Vocabulary:
    return vocabulary.extend(tokenizer, num_units=num_units, unit_tokenizer=unit_tokenizer, frame_rate_hz=frame_rate_hz)


def _from_shape(section: ModelSection, tokenizer: Any, layout: Vocabulary) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=layout.num_rows,
        tie_word_embeddings=False,
        max_position_embeddings=section.max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[section.shape],
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    _initialise(model)
    return model


def _fill(
    model: "PreTrainedModel", layout: Vocabulary, section: ModelSection, codebook_KD: npt.NDArray[np.float32] | None
) -> Initialisation:
    """Draw the new rows as the section says; returns the way that was taken."""
    way = initialisation.chosen(
        section.initialisation, from_scratch=section.path is None, has_codebook=codebook_KD is not None
    )
    initialisation.fill(model, layout, way, codebook_KD)
    return way


def _note_stop(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> None:
    """Have whatever serves the model stop at the mark that ends a turn; base models know only that of a document."""
    config = model.generation_config
    if config is None:
        return
    known = config.eos_token_id
    stops = [] if known is None else list(known) if isinstance(known, list | tuple) else [known]
    end = ChatFrame(tokenizer).turns(["user", "assistant"])[-1].end[0]
    if end not in stops:
        config.eos_token_id = [*stops, end]


def _initialise(model: "PreTrainedModel") -> None:
    """Begin with blocks that add nothing and embeddings large enough to be heard beside what blocks will add.

    Under Hugging Face's default (std 0.02 everywhere) the first updates of the blocks drown the tokens' own vectors.
    """
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=_EMBEDDING_STD)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            torch.nn.init.zeros_(parameter)

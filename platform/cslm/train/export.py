"""The trained model as a Hugging Face folder, written straight from the ranks' shards.

All ranks gather one weight after the other, and the first writes it to its place in a file and forgets it: what is in
memory of the whole model at any time is the largest weight, not the model.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist

from cslm import storage
from cslm.lm import lora
from cslm.lm.chain import ChainSection
from cslm.lm.chain import record as record_chain
from cslm.lm.lora import Weight
from cslm.lm.vocabulary import Vocabulary
from cslm.train import tensor_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHARD_BYTES = 5_000_000_000
CARD = "README.md"


class Source(Protocol):
    """What an export needs of an engine."""

    lm: "PreTrainedModel"

    def gathered(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[None]:
        """The whole values of some parameters in their `data` as long as the block lasts."""


def write(
    folder: str,
    source: Source,
    tokenizer: "PreTrainedTokenizerFast",
    layout: Vocabulary,
    *,
    card: str = "",
    chain: ChainSection | None = None,
    weights: Sequence[Weight] | None = None,
    value_of: Callable[[torch.nn.Parameter], torch.Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model, tokenizer, vocabulary and model card as one folder, whole or absent. All ranks must call.

    `chain` is how the model was taught to answer. `weights` says what is written, by default the plain model,
    adapters merged; `value_of` gives the values of a parameter in place of those that the model computes with, on
    the first rank, and is called on all. A weight larger than `shard_bytes` has a file of its own.
    """
    lm = source.lm
    weights = list(lora.weights(lm)) if weights is None else weights
    dtype = lm.dtype
    files = shards(weights, dtype.itemsize, shard_bytes)
    if dist.get_rank() != 0:
        for one in (one for shard in files for one in shard):
            _gather(source, one, value_of)
        return
    with storage.published_folder(folder) as target:
        places: dict[str, str] = {}
        for number, shard in enumerate(files, 1):
            name = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
            entries = [tensor_file.Entry(one.name, dtype, one.shape) for one in shard]
            tensors = _gathered(source, shard, value_of, dtype)
            tensor_file.write(storage.join(target, name), entries, tensors, {"format": "pt"})
            places |= {one.name: name for one in shard}
        if len(files) > 1:
            sizes = [torch.Size(one.shape).numel() for one in weights]
            total = {"total_parameters": sum(sizes), "total_size": sum(sizes) * dtype.itemsize}
            index = {"metadata": total, "weight_map": places}
            storage.write_json(storage.join(target, "model.safetensors.index.json"), index)
        _save_config(lm, target)
        tokenizer.save_pretrained(target)
        if card:
            storage.write_text(storage.join(target, CARD), card)
        layout.save(target)
        if chain is not None:
            record_chain(chain, target)


def shards(weights: Sequence[Weight], itemsize: int, shard_bytes: int) -> list[list[Weight]]:
    """Weights, in their order, cut into files of at most `shard_bytes`, or of one larger weight."""
    files: list[list[Weight]] = []
    held = 0
    for one in weights:
        size = torch.Size(one.shape).numel() * itemsize
        if not files or held + size > shard_bytes:
            files.append([])
            held = 0
        files[-1].append(one)
        held += size
    return files


def _gathered(
    source: Source,
    shard: Sequence[Weight],
    value_of: Callable[[torch.nn.Parameter], torch.Tensor] | None,
    dtype: torch.dtype,
) -> Iterator[torch.Tensor]:
    for one in shard:
        yield _gather(source, one, value_of).to(dtype)


@torch.no_grad()
def _gather(source: Source, one: Weight, value_of: Callable[[torch.nn.Parameter], torch.Tensor] | None) -> torch.Tensor:
    """One weight, on the first rank; elsewhere anything."""
    with source.gathered(one.parameters):
        values = [value_of(parameter) if value_of else parameter.detach() for parameter in one.parameters]
        # A copy, since what was gathered goes with the block.
        return one.combine(*values).to("cpu", copy=True) if dist.get_rank() == 0 else torch.empty(0)


def _save_config(lm: "PreTrainedModel", folder: str) -> None:
    config: Any = copy.deepcopy(lm.config)
    config.dtype = str(lm.dtype).removeprefix("torch.")
    config.architectures = [type(lm).__name__]
    config.save_pretrained(folder)
    if lm.can_generate() and lm.generation_config is not None:
        lm.generation_config.save_pretrained(folder)


def card(facts: Mapping[str, Any]) -> str:
    """A model card from plain facts, which it shows in their order; `languages` and `base_model` go into its head."""
    languages = facts["languages"]
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [speech, cslm]"]
    head += [f"language: [{', '.join(languages)}]"] if languages else []
    head += ["---", "", f"# {Path(facts['name']).name}", ""]
    head += ["A causal language model over text and speech units, trained with cslm.", ""]
    body = []
    for title, value in facts.items():
        if title == "name":
            continue
        body += [f"## {title.replace('_', ' ').capitalize()}", ""]
        if isinstance(value, Mapping):
            body += ["| | |", "|---|---|", *(f"| {key} | {entry} |" for key, entry in value.items()), ""]
        else:
            body += [", ".join(value) if isinstance(value, list) else str(value), ""]
    return "\n".join(head + body)

"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in a model's layers, by `peft`, merged when it is written.

Adapters are put into the model itself instead of a wrapper around it, so that everything else finds the model it knows.
The base is frozen; embeddings and head are trained whole, since the rows of the units are new.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cslm.config import Section, setting
from cslm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.", ".lora_B."
_ADAPTER = "default"


class LoraSection(Section):
    """Train low-rank adapters instead of the layers' own weights."""

    rank: int = setting(0, "rank of the adapters; 0 trains the layers themselves", ge=0)
    alpha: float = setting(32.0, "an adapter's output is scaled by alpha / rank", gt=0)
    dropout: float = setting(0.0, "share of an adapter's inputs that is dropped in training", ge=0, lt=1)
    targets: list[str] | None = setting(
        None, "names of the layers that get adapters, such as q_proj; all linear layers but the head when not given"
    )


@dataclass(frozen=True)
class Weight:
    """A weight of the plain model, by its Hugging Face name: `combine` makes it of the whole values of `parameters`.

    A weight without adapters is made of itself; one with low-rank adapters of itself and them.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    combine: Callable[..., torch.Tensor] = lambda value: value

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the first parameter, also where ZeRO-3 has left none of it here."""
        first = self.parameters[0]
        return tuple(getattr(first, "ds_shape", first.shape))


def apply(lm: "PreTrainedModel", section: LoraSection) -> None:
    """Put adapters into a model and freeze the rest but embeddings and head; nothing is done at rank 0.

    Raises ConfigError for targets that the model does not have.
    """
    if not section.rank:
        return
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.targets or "all-linear",
        bias="none",
    )
    try:
        inject_adapter_in_model(config, lm, adapter_name=_ADAPTER)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets: must name linear layers of the model: {error}") from error
    for name, parameter in lm.named_parameters():
        adapter = _DOWN in name or _UP in name
        if adapter:
            # ZeRO-3 takes weights of one type only; what the optimizer works on is fp32 all the same.
            parameter.data = parameter.data.to(lm.dtype)
        parameter.requires_grad_(adapter)
    for module in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        module.weight.requires_grad_(True)


def weights(lm: "PreTrainedModel") -> Iterator[Weight]:
    """The weights of the plain model, adapters merged; tied ones once. Without adapters, the parameters as they are."""
    modules = dict(lm.named_modules())
    for name, parameter in lm.named_parameters():
        if _DOWN in name or _UP in name:
            continue
        layer, inside, leaf = name.rpartition(_BASE)
        if not inside:
            yield Weight(name, (parameter,))
        elif leaf != "weight":
            yield Weight(f"{layer}.{leaf}", (parameter,))
        else:
            module: Any = modules[layer]
            down, up = (adapters[_ADAPTER].weight for adapters in (module.lora_A, module.lora_B))
            merge = _merge(module.scaling[_ADAPTER], getattr(module, "fan_in_fan_out", False))
            yield Weight(f"{layer}.{leaf}", (parameter, down, up), merge)


def _merge(scaling: float, transposed: bool) -> Callable[..., torch.Tensor]:
    def merge(base: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        added = up.float() @ down.float() * scaling
        return (base.float() + (added.T if transposed else added)).to(base.dtype)

    return merge

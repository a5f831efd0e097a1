"""The start model, opened for training: sharded as it loads, with packed attention, adapters and what is frozen."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cslm import storage
from cslm.errors import ConfigError
from cslm.lm import lora, vocabulary
from cslm.lm import model as lm_model
from cslm.lm.lora import LoraSection
from cslm.train import compute
from cslm.train.compute import ComputeSection
from cslm.train.freeze import Freezer, FreezeSection
from cslm.train.objective import PackedObjective
from cslm.train.zero import precision_of, stage_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Factors between head and logits that some families have and the loss does not know.
_LOGIT_FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class Recipe:
    """How a start model is trained: adapters, what is frozen at first, kernels, and the embeddings' learning rate.

    `embedding_learning_rate` None: that of the optimizer.
    """

    embedding_learning_rate: float | None = None
    lora: LoraSection = field(default_factory=LoraSection)
    freeze: FreezeSection = field(default_factory=FreezeSection)
    compute: ComputeSection = field(default_factory=ComputeSection)


@dataclass
class Built:
    """A model ready for DeepSpeed; `sharded_loading` must live as long as it does."""

    objective: PackedObjective
    groups: list[dict[str, Any]]
    freezer: Freezer
    varlen: bool
    sharded_loading: object

    @property
    def lm(self) -> "PreTrainedModel":
        """The language model inside."""
        return self.objective.lm


def build(folder: str, config: dict[str, Any], num_groups: int, device: torch.device, recipe: Recipe) -> Built:
    """Open the model in `folder` for training under the DeepSpeed dict `config`.

    The process group must be there: under ZeRO-3 every rank keeps only its share of each weight as it loads. Raises
    ConfigError for a model whose attention or head cannot be trained on packed rows.
    """
    from transformers.integrations import HfDeepSpeedConfig

    # Kept referenced: while it lives, transformers shards weights as it loads them instead of loading them whole.
    sharded_loading = HfDeepSpeedConfig(config)
    with storage.local_folder(folder) as local:
        lm = lm_model.load(local, _TYPES[precision_of(config)], packed=True)
        new_rows = _new_rows(local) if recipe.freeze.until_step else range(0)
    for name in _LOGIT_FACTORS:
        if getattr(lm.config.get_text_config(), name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"model.path: {name} of a {lm.config.model_type} model scales its logits, which the training loss does "
                "not know; take a model without it (Llama, Qwen, Mistral, Gemma ...)"
            )
    lora.apply(lm, recipe.lora)
    compute.prepare(lm, recipe.compute, device, stage_of(config))
    objective = PackedObjective(lm, num_groups).train()
    freezer = Freezer(lm, recipe.freeze, new_rows)
    groups = _parameter_groups(objective, recipe.embedding_learning_rate)
    return Built(objective, groups, freezer, compute.varlen(lm, device), sharded_loading)


def _new_rows(folder: str) -> range:
    layout = vocabulary.load(folder)
    return range(layout.num_text, layout.size)


def _parameter_groups(objective: PackedObjective, embedding_learning_rate: float | None) -> list[dict[str, Any]]:
    """The embeddings, with a rate of their own when one is given, and all other weights that are trained."""
    embedding = objective.lm.get_input_embeddings().weight
    rate = {} if embedding_learning_rate is None else {"lr": embedding_learning_rate}
    others = [one for one in objective.parameters() if one.requires_grad and one is not embedding]
    return [{"params": [embedding], **rate}, {"params": others}]

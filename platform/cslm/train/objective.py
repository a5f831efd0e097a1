"""The training loss: cross-entropy over the positions that carry it, summed for each task.

Logits are computed only where there is a target. Sums instead of means, so that the loss of a step is normalised by
the targets counted over all ranks and micro batches, not by a mean of means.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from cslm.data.feed import Batch
from cslm.train import linear_cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PackedObjective(nn.Module):
    """A Hugging Face causal LM, loaded with packed attention, with the loss over packed rows as its forward."""

    def __init__(self, lm: "PreTrainedModel", num_groups: int) -> None:
        super().__init__()
        self.lm = lm
        self._num_groups = num_groups
        head = lm.get_output_embeddings()
        assert isinstance(head, nn.Linear), "a causal LM must have a linear head"
        linear_cross_entropy.attach(head, getattr(lm.config, "final_logit_softcapping", None))

    def forward(self, batch: Batch, num_groups: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch of [B, T] -> (sum of the losses, scalar; sums and counts for each group, [2, num_groups]).

        `num_groups` where the batch is of another table than the one that is trained on.
        """
        batch = batch.located()
        assert batch.targets is not None
        hidden_BTD = self.lm.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, segments=batch.segments
        ).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.targets.places)
        total, losses_N = self.lm.get_output_embeddings()(hidden_ND, labels=batch.targets.ids)
        # A product instead of scattered sums: it comes out the same on every run on a GPU too.
        members_GN = batch.targets.groups == torch.arange(num_groups or self._num_groups, device=total.device)[:, None]
        weights_N2 = torch.stack([losses_N, torch.ones_like(losses_N)], 1).double()
        return total, (members_GN.double() @ weights_N2).T.contiguous()

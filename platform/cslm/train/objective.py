"""The training loss: cross-entropy over the positions that carry it, summed for each task.

Logits are computed only where there is a target. Sums instead of means, so that the loss of a step is normalised by
the targets counted over all ranks and micro batches, not by a mean of means.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from cslm.data.feed import IGNORE, Batch
from cslm.lm.attention import segment_index

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PackedObjective(nn.Module):
    """A Hugging Face causal LM, loaded with packed attention, with the loss over packed rows as its forward."""

    def __init__(self, lm: "PreTrainedModel", num_groups: int) -> None:
        super().__init__()
        self.lm = lm
        self._num_groups = num_groups

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch of [B, T] -> (sum of the losses, scalar; sums and counts for each group, [2, num_groups])."""
        hidden_BTD = self.lm.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            segments=segment_index(batch.position_ids),
        ).last_hidden_state
        wanted_BT = batch.labels != IGNORE
        logits_NV = self.lm.get_output_embeddings()(hidden_BTD[wanted_BT])
        losses_N = F.cross_entropy(logits_NV.float(), batch.labels[wanted_BT], reduction="none")
        groups_N = batch.group_ids[wanted_BT]
        per_group = torch.zeros(2, self._num_groups, dtype=torch.float64, device=losses_N.device)
        per_group[0].index_add_(0, groups_N, losses_N.detach().double())
        per_group[1].index_add_(0, groups_N, torch.ones_like(losses_N, dtype=torch.float64))
        return losses_N.sum(), per_group

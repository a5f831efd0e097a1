"""Batched greedy decoding: prompts of token ids in, the ids that follow out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def greedy(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[list[int]]:
    """The most likely continuation of each prompt, without the stop token that ended it.

    Prompts of like length share a batch, padded on the left. A continuation without a stop token has
    `max_new_tokens` ids.
    """
    results: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        longest = max(len(prompts[index]) for index in members)
        input_ids = torch.full((len(members), longest), pad_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, index in enumerate(members):
            input_ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            attention_mask[row, longest - len(prompts[index]) :] = 1
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(stop_ids),
            pad_token_id=pad_id,
        )
        for row, index in enumerate(members):
            results[index] = _until_stop(output[row, longest:].tolist(), stop_ids)
    return results


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    stops = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: stops[0]] if stops else ids

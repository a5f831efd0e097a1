"""Causal attention by plain matrix products, a block of queries at a time, for bf16 on CPUs.

PyTorch's own kernel is slow there: whole products are three times as quick at 128 tokens and twice at 512 (torch 2.11,
AVX-512 with bf16), but compute every pair and throw half of them away. A block of queries needs only the keys up to its
end. Autograd of these slices would fill up and add a whole gradient for each, so that the way back is written out.
"""

from typing import Any

import torch

# Queries at a time: fewer leave out more pairs, but make products too small to be quick.
_BLOCK = 256


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of query to key and value, each [N, L, D] (N heads of all sequences) -> [N, L, D].

    The probabilities are kept for the way back: N * L * (L + 256) / 2 numbers.
    """
    attended: torch.Tensor = _CausalProducts.apply(query, key, value, scaling)  # type: ignore[no-untyped-call]
    return attended


class _CausalProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_NLD: torch.Tensor, key_NLD: torch.Tensor, value_NLD: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        number, length, _ = query_NLD.shape
        key_NDL, attended_NLD, kept = key_NLD.transpose(1, 2), torch.empty_like(query_NLD), []
        for start in range(0, length, _BLOCK):
            end = min(start + _BLOCK, length)
            future = torch.full((end - start, end), -torch.inf, dtype=query_NLD.dtype).triu(start + 1)
            scores = torch.baddbmm(
                future.expand(number, -1, -1), query_NLD[:, start:end], key_NDL[:, :, :end], alpha=scaling
            )
            kept.append(scores.softmax(-1))
            attended_NLD[:, start:end] = torch.bmm(kept[-1], value_NLD[:, :end])
        ctx.save_for_backward(query_NLD, key_NLD, value_NLD, *kept)
        ctx.scaling = scaling
        return attended_NLD

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_NLD, key_NLD, value_NLD, *kept = ctx.saved_tensors
        value_NDL, grad_query = value_NLD.transpose(1, 2), torch.empty_like(query_NLD)
        start = query_NLD.shape[1]
        # From the last block, which reaches all keys: its gradients are what those of the others are added to.
        for shares in reversed(kept):
            end, start = start, start - shares.shape[1]
            gradient = gradients[0][:, start:end]
            inward = torch.bmm(gradient, value_NDL[:, :, :end])
            inward = torch._softmax_backward_data(inward, shares, -1, shares.dtype)
            grad_query[:, start:end] = torch.bmm(inward, key_NLD[:, :end])
            to_value = torch.bmm(shares.transpose(1, 2), gradient)
            to_key = torch.bmm(inward.transpose(1, 2), query_NLD[:, start:end])
            if end == query_NLD.shape[1]:
                grad_key, grad_value = to_key, to_value
            else:
                grad_key[:, :end] += to_key
                grad_value[:, :end] += to_value
        return grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling), grad_value, None

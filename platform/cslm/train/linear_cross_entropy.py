"""Cross-entropy of a linear head without the logits of all tokens at once.

With 132,000 rows in the head the logits of 16,000 targets are 4 GB in bf16 and as much again for their gradient. Here a
stretch of targets at a time goes through the head, its softmax and both products of the backward pass, and only the
gradients of hidden states and weights are kept (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989, section 3.2).
Weights' gradients are summed over stretches in fp32, whatever the precision of the model.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

# Logits held at a time. On a GPU products of this size run at full speed; on a CPU they stay near its caches.
_CUDA_LOGITS, _CPU_LOGITS = 1 << 28, 1 << 22
# On a CPU products are compiled for each shape, so a batch's number of targets is filled up to a multiple of this.
_CPU_ROWS_STEP = 64


def attach(head: nn.Linear, softcap: float | None = None) -> None:
    """Let the head take `labels`: `head(hidden_ND, labels=labels_N)` gives (sum of the losses, losses_N in fp32).

    The loss is computed inside the head's own call, so that what shards its weight gathers it there. Without labels
    it gives logits as before. `softcap` c: logits are c * tanh(logits / c) (Gemma 2).
    """
    logits_of = head.forward

    def forward(hidden: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        if labels is None:
            return logits_of(hidden)
        return linear_cross_entropy(hidden, head.weight, labels, bias=head.bias, softcap=softcap)

    head.forward = forward  # type: ignore[assignment]


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cross-entropies (scalar, with gradient) and each of them ([N], fp32, without).

    N targets, D wide, V classes; `rows` targets are computed at a time (chosen by the size of V when not given). The
    gradients are computed on the way forward: use the sum only in what is linear in it.
    """
    if rows is None:
        most = _CUDA_LOGITS if hidden_ND.is_cuda else _CPU_LOGITS
        rows = max(16, most // weight_VD.shape[0])
    total, losses_N = _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias, labels_N, softcap, rows)  # type: ignore[no-untyped-call]
    return total, losses_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        softcap: float | None,
        rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_targets = hidden_ND.shape[0]
        if not hidden_ND.is_cuda:
            blank = -num_targets % _CPU_ROWS_STEP
            hidden_ND, labels_N = (
                nn.functional.pad(hidden_ND, (0, 0, 0, blank)),
                nn.functional.pad(labels_N, (0, blank)),
            )
        num_rows = hidden_ND.shape[0]
        wanted = ctx.needs_input_grad
        losses_N = torch.empty(num_rows, dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        # With one stretch nothing is summed, so nothing is gained by more bits.
        exact = torch.float32 if num_rows > rows else weight_VD.dtype
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact) if wanted[1] else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and wanted[2] else None
        step = _compiled() if hidden_ND.is_cuda else _losses_and_gradients
        for start in range(0, num_rows, rows):
            part = slice(start, start + rows)
            hidden_nD, labels_n = hidden_ND[part], labels_N[part]
            logits_nV = nn.functional.linear(hidden_nD, weight_VD, bias_V)
            if not any(wanted[:3]):
                losses_N[part] = _losses(logits_nV, labels_n, softcap)
                continue
            losses_N[part], gradient_nV = step(logits_nV, labels_n, softcap)
            gradient_nV[max(num_targets - start, 0) :] = 0
            if grad_hidden_ND is not None:
                torch.mm(gradient_nV, weight_VD, out=grad_hidden_ND[part])
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, gradient_nV, hidden_nD)
            if grad_bias_V is not None:
                grad_bias_V += gradient_nV.sum(0, dtype=exact)
        losses_N = losses_N[:num_targets]
        if grad_hidden_ND is not None:
            grad_hidden_ND = grad_hidden_ND[:num_targets]
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD, grad_bias_V)
        ctx.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = []
        for kept, dtype in zip(ctx.saved_tensors, (None, *ctx.dtypes), strict=True):
            gradients.append(None if kept is None else kept.mul(outputs[0]).to(dtype or kept.dtype))
        return *gradients, None, None, None


def _add_product(total_VD: torch.Tensor, gradient_nV: torch.Tensor, hidden_nD: torch.Tensor) -> None:
    """Add gradient^T hidden to the total; products of 16-bit tensors are summed in fp32."""
    if total_VD.dtype == gradient_nV.dtype:
        total_VD.addmm_(gradient_nV.T, hidden_nD)
    elif total_VD.is_cuda:
        torch.addmm(total_VD, gradient_nV.T, hidden_nD, out_dtype=torch.float32, out=total_VD)
    else:
        total_VD += torch.mm(gradient_nV.T, hidden_nD)


def _capped(logits_nV: torch.Tensor, softcap: float | None) -> torch.Tensor:
    values = logits_nV.float()
    return values if softcap is None else softcap * torch.tanh(values / softcap)


def _losses(logits_nV: torch.Tensor, labels_n: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return nn.functional.cross_entropy(_capped(logits_nV, softcap), labels_n, reduction="none")


def _losses_and_gradients(
    logits_nV: torch.Tensor, labels_n: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [n] in fp32 and their gradients in the logits [n, V], in the logits' precision."""
    values_nV = _capped(logits_nV, softcap)
    sums_n1 = values_nV.logsumexp(1, keepdim=True)
    labels_n1 = labels_n[:, None]
    losses_n = (sums_n1 - values_nV.gather(1, labels_n1))[:, 0]
    slopes = None if softcap is None else 1 - (values_nV / softcap).square()
    # In place: the logits are nobody else's.
    gradient_nV = values_nV.sub_(sums_n1).exp_().scatter_add_(1, labels_n1, torch.full_like(sums_n1, -1.0))
    if slopes is not None:
        gradient_nV.mul_(slopes)
    return losses_n, gradient_nV.to(logits_nV.dtype)


@cache
def _compiled() -> Any:
    """The same in two passes over the logits instead of ten, by PyTorch's compiler."""
    return torch.compile(_losses_and_gradients, dynamic=True)

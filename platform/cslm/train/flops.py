"""How much arithmetic a training step needs, and how much the device could do: their ratio is the MFU.

Counted is what the model's mathematics asks for (Chowdhery et al. 2022, PaLM, appendix B): 6 operations a weight and
token in matrices that are trained, 4 where the weight is frozen and only passes the gradient on. The head counts for
targets alone, attention for the pairs inside segments alone, and what is computed again to save memory not at all. So
padding, masks and recomputation lower the figure, as they should.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cslm.data.feed import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Dense 16-bit operations a second, from the vendor's data sheets (NVIDIA, without sparsity).
_PEAKS = {
    "B200": 2250e12,
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class ModelFlops:
    """Operations of forward and backward, for each token, for each target, for each pair that attention looks at."""

    a_token: float
    a_target: float
    a_pair: float

    @classmethod
    def of(cls, lm: "PreTrainedModel") -> "ModelFlops":
        """Count a Hugging Face causal LM, also one whose weights are sharded."""
        head = lm.get_output_embeddings().weight
        embeddings = {id(head), id(lm.get_input_embeddings().weight)}
        a_token = sum(
            _operations(module.weight)
            for module in lm.modules()
            if isinstance(module, nn.Linear) and id(module.weight) not in embeddings
        )
        config = lm.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Scores and weighted sums, 2 operations each, forward once and backward twice.
        a_pair = 12.0 * config.num_hidden_layers * config.num_attention_heads * width
        return cls(a_token, _operations(head), a_pair)

    def of_batch(self, batch: Batch) -> float:
        """Operations that a batch needs; padding needs none."""
        real = batch.group_ids >= 0
        pairs = int((batch.position_ids[real] + 1).sum())
        return self.a_token * batch.num_tokens + self.a_target * batch.num_targets + self.a_pair * pairs


def _operations(weight: torch.Tensor) -> float:
    # Under ZeRO-3 a rank's own tensor is empty between uses; DeepSpeed keeps the true size beside it.
    size = getattr(weight, "ds_numel", weight.numel())
    return (6.0 if weight.requires_grad else 4.0) * float(size)


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Operations a second that one device reaches at best, and whether that is `known` or was `measured`.

    Measured are plain products of square matrices with the threads that this process has.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for part, peak in _PEAKS.items():
            if part in name:
                return peak, "known"
    return _measured(device, dtype), "measured"


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(5):
        _wait(device)
        started_s = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2.0 * size**3 / best_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

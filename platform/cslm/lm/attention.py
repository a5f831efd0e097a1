"""Causal attention inside the segments of packed rows, and nowhere else.

A block-diagonal mask over whole rows computes every pair of a row and throws most of them away: with five segments a
row, four fifths. On a CPU the segments of a batch are laid side by side, those of like length together, and each group
is attended to without any mask; on a GPU PyTorch's variable-length attention takes the rows as they are. Short segments
in long rows cost what they would cost alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.varlen import varlen_attn

from cslm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from cslm.lm import causal_products

NAME = "packed_segments"
# Longer segments on a CPU take PyTorch's kernel, which keeps no probabilities for the way back.
_PRODUCTS_UP_TO = 2048
# Lengths within this ratio share a group: filling up then costs little, and the groups are few.
_CLASSES_AN_OCTAVE = 4
# Lengths are rounded up to a multiple of this, or of a sixteenth of the power of two above. A CPU's products are
# compiled for each shape, which takes longer than a small product itself, and no more than a thousand are kept.
_LENGTHS_STEP = 16


@dataclass(frozen=True)
class SegmentIndex:
    """Where the segments of a batch [B, T] lie.

    `groups` hold for segments of like length the flat positions of their tokens, [S, L], short ones filled up with
    position 0 behind their end. In the groups laid one behind the other `restore` [B * T] finds each token's place, and
    `filled` [F] the places that are filled up.
    """

    groups: tuple[torch.Tensor, ...]
    restore: torch.Tensor
    filled: torch.Tensor

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "SegmentIndex":
        """The same with every tensor moved."""
        return SegmentIndex(tuple(move(group) for group in self.groups), move(self.restore), move(self.filled))


@dataclass(frozen=True)
class VarlenIndex:
    """Where the segments of a flattened batch begin and the last ends, [S + 1] int32; none is longer than `longest`."""

    bounds: torch.Tensor
    longest: int

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "VarlenIndex":
        """The same with every tensor moved."""
        return VarlenIndex(move(self.bounds), self.longest)


def varlen_index(position_ids: torch.Tensor) -> VarlenIndex:
    """Find the segments of packed rows for variable-length attention: position_ids [B, T] count from 0 in each."""
    starts, ends = _bounds(position_ids.reshape(-1).cpu())
    bounds = torch.cat([starts, ends[-1:]]).int()
    # Rounded up to a power of two: compiled layers are made anew for each value.
    longest = 1 << (int((ends - starts).max()) - 1).bit_length()
    return VarlenIndex(bounds.to(position_ids.device), longest)


def _bounds(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.nonzero(flat == 0).flatten()
    return starts, torch.cat([starts[1:], torch.tensor([flat.numel()])])


def _rounded(length: int) -> int:
    step = max(_LENGTHS_STEP, (1 << (length - 1).bit_length()) // 16)
    return -(-length // step) * step


def segment_index(position_ids: torch.Tensor) -> SegmentIndex:
    """Find the segments of packed rows: position_ids [B, T] count from 0 in each."""
    flat = position_ids.reshape(-1).cpu()
    starts, ends = _bounds(flat)
    lengths = ends - starts
    classes = torch.ceil(torch.log2(lengths.double()) * _CLASSES_AN_OCTAVE).long()
    groups, filled = [], []
    restore = torch.zeros_like(flat)
    place = 0
    for kind in torch.unique(classes).tolist():
        members = torch.nonzero(classes == kind).flatten()
        longest = _rounded(int(lengths[members].max()))
        offsets = torch.arange(longest)
        inside = offsets < lengths[members, None]
        group = torch.where(inside, starts[members, None] + offsets, 0)
        groups.append(group.to(position_ids.device))
        restore[group[inside]] = place + torch.nonzero(inside.flatten()).flatten()
        filled.append(place + torch.nonzero(~inside.flatten()).flatten())
        place += group.numel()
    return SegmentIndex(tuple(groups), restore.to(position_ids.device), torch.cat(filled).to(position_ids.device))


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    segments: SegmentIndex | VarlenIndex | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of a Hugging Face model: query [B, H, T, D], key and value [B, K, T, D] -> [B, T, H, D].

    The model must be called with `segments` (see `segment_index` and `varlen_index`) and must pass `require_supported`.
    `sliding_window` w: a token sees itself and w - 1 before. `softcap` c: scores are c * tanh(scores / c) (Gemma 2).
    """
    assert segments is not None, "a model with packed attention must be called with `segments`"
    batch, num_heads, length, width = query.shape
    flat = [tensor.transpose(1, 2).reshape(batch * length, -1, width) for tensor in (query, key, value)]
    if isinstance(segments, VarlenIndex):
        assert not dropout, "variable-length attention has no dropout"
        assert not softcap, "variable-length attention has no softcap"
        bounds, longest = segments.bounds, segments.longest
        before = -1 if sliding_window is None else sliding_window - 1
        joined = varlen_attn(
            flat[0], flat[1], flat[2], bounds, bounds, longest, longest, scale=scaling, window_size=(before, 0)
        )
        assert isinstance(joined, torch.Tensor)
        return joined.view(batch, length, num_heads, width), None
    laid = torch.cat([group.flatten() for group in segments.groups])
    sides = [_rearranged(tensor, laid, segments.restore) for tensor in flat]
    outputs, start = [], 0
    for group in segments.groups:
        # Filled-up places lie behind the segment's end, where causal attention never looks.
        places = slice(start, start + group.numel())
        grouped = [side[places].view(*group.shape, -1, width).transpose(1, 2) for side in sides]
        window = sliding_window if sliding_window and sliding_window < group.shape[1] else None
        attended = _causal(grouped[0], grouped[1], grouped[2], scaling, dropout, window, softcap)
        outputs.append(attended.transpose(1, 2).reshape(-1, num_heads, width))
        start = places.stop
    joined = _rearranged(torch.cat(outputs), segments.restore, laid, segments.filled)
    return joined.view(batch, length, num_heads, width), None


def _rearranged(
    tensor: torch.Tensor, there: torch.Tensor, back: torch.Tensor, blank: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows `there` of a tensor; the way back takes rows `back` of the gradient, and nothing to the places `blank`.

    The two are each other's inverse but for filled-up places. Autograd does not know that, and would add up gradients
    row by row, which takes ten times as long.
    """
    rearranged: torch.Tensor = _Rearranged.apply(tensor, there, back, blank)  # type: ignore[no-untyped-call]
    return rearranged


class _Rearranged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: torch.Tensor, there: torch.Tensor, back: torch.Tensor, blank: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(back, blank)
        return tensor.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back, blank = ctx.saved_tensors
        gradient = gradients[0].index_select(0, back)
        return gradient if blank is None else gradient.index_fill_(0, blank, 0), None, None, None


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention of query [S, H, L, D] to key and value [S, K, L, D], H a multiple of K -> [S, H, L, D]."""
    segments, num_heads, length, width = query.shape
    repeats = num_heads // key.shape[1]
    if softcap is not None:
        return _capped(query, key, value, scaling, dropout, window, softcap)
    if window is not None:
        seen = _seen(length, window, query.device)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scaling, dropout_p=dropout, enable_gqa=repeats > 1
        )
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not on_cpu or length > _PRODUCTS_UP_TO or dropout:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=repeats > 1
        )
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    query, key, value = (tensor.reshape(segments * num_heads, length, width) for tensor in (query, key, value))
    return causal_products.attend(query, key, value, scaling).view(segments, num_heads, length, width)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float,
) -> torch.Tensor:
    """The same with scores kept within softcap, which no kernel of PyTorch's has; softmax in fp32."""
    repeats, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / softcap)
    scores = scores.masked_fill(~_seen(length, window or length, query.device), -torch.inf)
    weights = F.dropout(scores.float().softmax(-1).to(query.dtype), dropout)
    return weights @ value


def _seen(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which places [L, L] a token sees: itself and `window` - 1 before."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)


def require_supported(lm: "PreTrainedModel") -> None:
    """Raise ConfigError for a model with an attention that packed rows would be computed wrongly with."""
    kinds = set(getattr(lm.config.get_text_config(), "layer_types", None) or ())
    unknown = sorted(kinds - {"full_attention", "sliding_attention"})
    reasons = [f"layers of the kind {kind}" for kind in unknown]
    if any(name.rpartition(".")[2] == "sinks" for name, _ in lm.named_parameters()):
        reasons.append("attention sinks")
    if any(getattr(module, "is_causal", True) is False for module in lm.modules()):
        reasons.append("attention to what comes later")
    if not getattr(lm, "_supports_attention_backend", False):
        reasons.append("an attention of its own, which cannot be exchanged")
    if reasons:
        raise ConfigError(
            "model.path: packed rows are trained by full or sliding-window causal attention, but a "
            f"{lm.config.model_type} model has {', '.join(reasons)}; take a model without (Llama, Qwen, Mistral, Gemma)"
        )


def register() -> None:
    """Make the function known to transformers as `packed_segments`; no mask is built for it."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_: Sequence[Any], **__: Any) -> None:
    return None

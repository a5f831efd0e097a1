"""The decoding loop: prompts in one batch, one token for each at every step, over a cache of keys and values.

Prompts are filled up on the left. Outputs that have ended leave the batch. What a step costs beside the model's own
products is kept small: no mask is built anew, no cache is copied, and the grammar works on arrays of the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cslm.lm import grammar, kv_cache
from cslm.lm.grammar import Guide, Ints
from cslm.lm.sampling import Chooser

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Leaving the batch copies what stays of the cache: it has to be worth it.
_LEAVING = 1 / 8


@dataclass(frozen=True)
class Step:
    """The tokens of one step: `tokens[i]` continues prompt `rows[i]`; those of `ended` are done with it."""

    rows: list[int]
    tokens: list[int]
    ended: list[bool]


class Bans:
    """For each set of kinds that was ever allowed, the ids [V] that are not in it."""

    def __init__(self, kinds: Ints, device: torch.device) -> None:
        self.kinds = kinds
        self._place: dict[int, int] = {}
        self._table = torch.empty((0, len(kinds)), dtype=torch.bool, device=device)

    def of(self, allowed: grammar.Bools) -> torch.Tensor:
        """The banned ids [B, V] where kinds [B, K] are allowed."""
        numbers = grammar.combination(allowed).tolist()
        new = [number for number in dict.fromkeys(numbers) if number not in self._place]
        for number in new:
            banned = torch.from_numpy(~grammar.ids_of(number, self.kinds)).to(self._table.device)
            self._place[number] = len(self._table)
            self._table = torch.cat([self._table, banned[None]])
        first = self._place[numbers[0]]
        if all(number == numbers[0] for number in numbers):
            return self._table[first : first + 1]
        places = torch.tensor([self._place[number] for number in numbers], device=self._table.device)
        return self._table[places]


@torch.inference_mode()
def decode(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], guide: Guide, bans: Bans, choose: Chooser, room: int
) -> Iterator[Step]:
    """Continue prompts of token ids until each output has ended; yields at every token.

    `room`: places to take ahead for what is written.
    """
    layout = _Layout(model, prompts, room)
    rows = np.arange(len(prompts))
    input_ids = layout.input_ids
    while True:
        logits_BV = model(input_ids=input_ids, use_cache=True, logits_to_keep=1, **layout.arguments()).logits[:, -1]
        logits_BV = logits_BV.masked_fill(bans.of(guide.allowed()), -torch.inf)
        chosen_B = choose(logits_BV)
        tokens = chosen_B.cpu().numpy()
        was_over = guide.ended
        guide.advance(tokens)
        ended = guide.ended
        going = ~was_over
        yield Step(rows[going].tolist(), tokens[going].tolist(), ended[going].tolist())
        if ended.all():
            return
        input_ids = chosen_B[:, None]
        layout.advance()
        if ended.sum() >= _LEAVING * len(rows):
            kept = np.flatnonzero(~ended)
            rows = rows[kept]
            guide.keep(kept)
            choose.keep(kept)
            chosen = torch.from_numpy(kept).to(input_ids.device)
            input_ids = input_ids[chosen]
            layout.keep(chosen)


class _Layout:
    """Where the tokens of a batch stand: positions, mask and cache."""

    def __init__(self, model: "PreTrainedModel", prompts: Sequence[Sequence[int]], room: int) -> None:
        device = model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        input_ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        self.input_ids = input_ids.to(device)
        self._padding = (longest - lengths).to(device)
        self._is_padded = bool((lengths < longest).any())
        self._end = longest
        places = torch.arange(longest + room, device=device)
        # Rows x places: what may be attended to once it is there.
        self._seen = places >= self._padding[:, None]
        self._positions = (places[:longest] - self._padding[:, None]).clamp(min=0)
        self._is_first = True
        config = model.config.get_text_config()
        # Other layers than those of full attention have caches and masks of their own, which the model makes.
        self._is_plain = _is_plain(model)
        self._cache: Any = None
        if self._is_plain:
            self._cache = kv_cache.roomy(config.num_hidden_layers, longest + room)
        else:
            from transformers import DynamicCache

            self._cache = DynamicCache(config=config)

    def arguments(self) -> dict[str, Any]:
        """What the model is given beside the tokens."""
        return {"past_key_values": self._cache, "position_ids": self._positions, "attention_mask": self._mask()}

    def advance(self) -> None:
        """One more token stands in each row."""
        self._is_first = False
        self._positions = (self._end - self._padding)[:, None]
        self._end += 1

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows only."""
        self._padding, self._seen, self._positions = self._padding[rows], self._seen[rows], self._positions[rows]
        self._cache.batch_select_indices(rows)

    def _mask(self) -> torch.Tensor | None:
        if not self._is_padded:
            return None
        seen = self._seen[:, : self._end]
        if not self._is_plain:
            return seen.long()
        if not self._is_first:
            return seen[:, None, None]
        places = torch.arange(self._end, device=seen.device)
        before = places[:, None] >= places
        # A place that is filled up attends to itself: to nothing at all would give no number.
        return ((seen[:, None] & before) | (places[:, None] == places))[:, None]


def _is_plain(model: "PreTrainedModel") -> bool:
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return layer_types == {"full_attention"} and not slides and config._attn_implementation == "sdpa"

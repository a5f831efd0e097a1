"""The decoding loop: prompts side by side, one token for each at every step, over a cache of keys and values.

Prompts are filled up on the left, so that all rows end at the same place. A row whose output has ended takes the next
prompt, which is read by itself and put to the same place; when none is left, rows leave the batch. What a step costs
beside the model's own products is kept small: no cache is copied, and the grammar works on arrays.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cslm.lm import grammar
from cslm.lm.grammar import Bools, Guide, Ints
from cslm.lm.kv_cache import RoomyCache
from cslm.lm.sampling import Chooser

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Prompts are read, and rows leave, when so many rows have ended: a few together cost less than one by one.
_ENDED_AT_ONCE = 1 / 8
# Places before all that is still looked at are forgotten when they are this share of all, and so many.
_FORGET_SHARE, _FORGET_LEAST = 1 / 4, 32


@dataclass(frozen=True)
class Step:
    """Tokens of one step: `tokens[i]` continues prompt `rows[i]`; those of `ended` are done with it."""

    rows: list[int]
    tokens: list[int]
    ended: list[bool]


class Bans:
    """For each set of kinds that was ever allowed, the ids [V] that are not in it."""

    def __init__(self, kinds: Ints, device: torch.device) -> None:
        self.kinds = kinds
        self._place: dict[int, int] = {}
        self._table = torch.empty((0, len(kinds)), dtype=torch.bool, device=device)

    def of(self, allowed: Bools) -> torch.Tensor:
        """The banned ids [B, V] where kinds [B, K] are allowed."""
        numbers = grammar.combination(allowed).tolist()
        for number in dict.fromkeys(numbers):
            if number not in self._place:
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
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    guide: Guide,
    bans: Bans,
    choose: Chooser,
    *,
    batch_size: int = 64,
) -> Iterator[Step]:
    """Continue prompts of token ids until each output has ended; yields at every token.

    Prompts are taken in their order, the longest should come first. `guide` and `choose` are those of all prompts.
    """

    def pick(rows: Ints, logits_BV: torch.Tensor) -> tuple[torch.Tensor, Step]:
        going = ~guide.ended(rows)
        chosen_B = choose(rows, logits_BV.masked_fill(bans.of(guide.allowed(rows)), -torch.inf))
        tokens = chosen_B.cpu().numpy()
        guide.advance(rows, tokens)
        ended = guide.ended(rows)
        return chosen_B, Step(rows[going].tolist(), tokens[going].tolist(), ended[going].tolist())

    waiting = deque(range(len(prompts)))
    while waiting:
        rows = _taken(waiting, batch_size)
        batch = _Batch(model, [prompts[row] for row in rows], int(guide.left(rows).max()))
        chosen_B, step = pick(rows, batch.logits)
        yield step
        while True:
            ended = guide.ended(rows)
            enough = ended.sum() >= _ENDED_AT_ONCE * len(rows)
            if enough and waiting and batch.takes_more:
                free = np.flatnonzero(ended)
                new = _taken(waiting, len(free))
                free = free[: len(new)]
                logits_BV = batch.join(free, [prompts[row] for row in new])
                rows[free] = new
                first_B, step = pick(new, logits_BV)
                chosen_B[torch.from_numpy(free).to(chosen_B.device)] = first_B
                yield step
                continue
            if ended.all():
                break
            if enough:
                kept = np.flatnonzero(~ended)
                rows, chosen_B = rows[kept], batch.keep(kept, chosen_B)
            batch.forget(~guide.ended(rows), least=len(prompts[waiting[0]]) if waiting else 0)
            chosen_B, step = pick(rows, batch.step(chosen_B))
            yield step


def _taken(waiting: deque[int], number: int) -> Ints:
    return np.array([waiting.popleft() for _ in range(min(number, len(waiting)))], dtype=np.int64)


class _Batch:
    """Rows of tokens that the model has read: each with its length, all up to the same place of the cache."""

    def __init__(self, model: "PreTrainedModel", prompts: Sequence[Sequence[int]], room: int) -> None:
        """Read prompts; `room`: places to take ahead for what is written. `logits` [B, V] are those behind the last."""
        self._model = model
        self.takes_more = _is_plain(model)
        self._cache = self._new_cache(room)
        self.logits, self._lengths = self._read(prompts, self._cache)
        self._end = int(self._lengths.max())
        self._forget_from = 0
        self._note_padding()

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Read one token more in every row; returns the logits [B, V] behind it."""
        positions_B1 = self._lengths[:, None]
        self._end += 1
        self._lengths = self._lengths + 1
        mask: torch.Tensor | None = None
        if self._is_padded:
            places = torch.arange(self._end, device=tokens_B.device)
            seen_BT = places >= self._padding[:, None]
            mask = seen_BT[:, None, None] if self.takes_more else seen_BT.long()
        return self._logits(tokens_B[:, None], positions_B1, mask, self._cache)

    def join(self, rows: Ints, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put new prompts in the place of some rows; none is longer than all that is there. Returns their logits."""
        cache = self._new_cache(0)
        logits_BV, lengths = self._read(prompts, cache)
        places = torch.from_numpy(rows).to(lengths.device)
        self._cache.replace(places, cache)
        self._lengths[places] = lengths
        self._note_padding()
        return logits_BV

    def keep(self, rows: Ints, tokens_B: torch.Tensor) -> torch.Tensor:
        """Go on with some of the rows, and with theirs of some tokens."""
        places = torch.from_numpy(rows).to(tokens_B.device)
        self._cache.batch_select_indices(places)
        self._lengths = self._lengths[places]
        self._note_padding()
        return tokens_B[places]

    def forget(self, going: Bools, least: int) -> None:
        """Forget places before all that is looked at by the rows that go on, where it pays; `least` of them stay."""
        if not self.takes_more or not self._is_padded or self._end < self._forget_from:
            return
        needed = int(self._lengths[torch.from_numpy(going).to(self._lengths.device)].max())
        places = self._end - max(needed, least)
        if places >= max(_FORGET_LEAST, _FORGET_SHARE * self._end):
            self._cache.trim(places)
            self._end -= places
            # Of rows that have ended what is left over is never looked at.
            self._lengths = self._lengths.clamp(max=self._end)
            self._note_padding()
        # Not asked again before it can be otherwise.
        self._forget_from = self._end + _FORGET_LEAST // 2

    def _read(self, prompts: Sequence[Sequence[int]], cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        input_ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        padding = longest - lengths
        places = torch.arange(longest)
        mask: torch.Tensor | None = None
        if bool(padding.any()):
            seen_BT = places >= padding[:, None]
            if self.takes_more:
                before = places[:, None] >= places
                # A place that is filled up attends to itself: to nothing at all would give no number.
                mask = ((seen_BT[:, None] & before) | (places[:, None] == places))[:, None].to(device)
            else:
                mask = seen_BT.long().to(device)
        positions = (places - padding[:, None]).clamp(min=0).to(device)
        return self._logits(input_ids.to(device), positions, mask, cache), lengths.to(device)

    def _logits(
        self, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: Any
    ) -> torch.Tensor:
        output = self._model(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV

    def _new_cache(self, room: int) -> Any:
        config = self._model.config.get_text_config()
        if self.takes_more:
            return RoomyCache(config.num_hidden_layers, room)
        from transformers import DynamicCache

        return DynamicCache(config=config)

    def _note_padding(self) -> None:
        self._padding = self._end - self._lengths
        self._is_padded = bool(self._padding.any())
        self._forget_from = 0


def _is_plain(model: "PreTrainedModel") -> bool:
    """Whether all layers have full attention; others have caches and masks of their own, which the model makes."""
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return layer_types == {"full_attention"} and not slides and config._attn_implementation == "sdpa"

"""How the next token is drawn: greedily, or from the likeliest that make up `top_p`, by random numbers of its own.

Every prompt has its own row of random numbers, which follow from the seed and the prompt: its answer does not depend
on what else is asked in the same batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cslm.config import Section, setting
from cslm.lm.grammar import AnswerForm, Spoken

# So many of the likeliest tokens nearly always hold `top_p`; to sort all of a vocabulary costs ten times as much.
_LIKELIEST = 256


class Sampling(Section):
    """How answers are drawn, how long they may get, and their form."""

    temperature: float = setting(1.0, "how even the choice among likely tokens is; 0: always the likeliest", ge=0)
    top_p: float = setting(0.7, "share of the probability that the tokens to choose from hold together", gt=0, le=1)
    seed: int = setting(0, "which of the possible answers; the same seed gives a prompt the same answer", ge=0)
    max_new_tokens: int = setting(512, "longest output; it is closed in time to keep its form", unit="tokens", ge=8)
    max_text_tokens: int = setting(256, "longest span of text: a question, a chunk or an answer", unit="tokens", ge=1)
    max_speech_units: int = setting(1024, "longest span of speech", unit="units", ge=1)
    form: AnswerForm = setting(
        "any", "form of a spoken question's answer (see data.chain.form); any: the one the model was trained on, where "
        "its folder says, or what it chooses"
    )  # fmt: skip
    spoken: Spoken = setting(
        "always", "whether answers of the tasks answer and s2st are spoken; free: as the model likes"
    )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken, so that nothing is left to chance."""
        return self.temperature == 0


class Chooser:
    """Draws one token for each of some outputs from logits [B, V]."""

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]]) -> None:
        self._sampling = sampling
        self._prompts = prompts
        # Of each output that has begun: its random numbers, and how many of them are used.
        self._random: dict[int, npt.NDArray[np.float64]] = {}
        self._used = np.zeros(len(prompts), dtype=np.int64)

    def __call__(self, rows: npt.NDArray[np.int64], logits_BV: torch.Tensor) -> torch.Tensor:
        """Token ids [B] for the outputs `rows` [B]; what may not come has a logit of -inf."""
        if self._sampling.is_greedy:
            return logits_BV.argmax(-1)
        drawn = [self._numbers(row)[used] for row, used in zip(rows.tolist(), self._used[rows].tolist(), strict=True)]
        # Outputs that have ended may be asked on.
        self._used[rows] = np.minimum(self._used[rows] + 1, self._sampling.max_new_tokens - 1)
        random_B = torch.tensor(drawn, dtype=torch.float32, device=logits_BV.device)
        return nucleus(logits_BV.float() / self._sampling.temperature, self._sampling.top_p, random_B)

    def _numbers(self, row: int) -> npt.NDArray[np.float64]:
        if row not in self._random:
            ids = self._prompts[row]
            stream = np.random.default_rng([self._sampling.seed, len(ids), *ids])
            self._random[row] = stream.random(self._sampling.max_new_tokens)
        return self._random[row]


def nucleus(logits_BV: torch.Tensor, top_p: float, random_B: torch.Tensor) -> torch.Tensor:
    """Draw from the fewest likeliest tokens that hold `top_p` of the probability, by numbers in [0, 1) -> ids [B].

    Top-p sampling (Holtzman et al. 2020, arXiv:1904.09751), by the inverse of the distribution function.
    """
    probabilities_BV = logits_BV.softmax(-1)
    num_likeliest = min(_LIKELIEST, probabilities_BV.shape[-1])
    likeliest, ids = probabilities_BV.topk(num_likeliest)
    reached = likeliest.cumsum(-1)
    if num_likeliest < probabilities_BV.shape[-1] and bool((reached[:, -1] < top_p).any()):
        likeliest, ids = probabilities_BV.sort(descending=True)
        reached = likeliest.cumsum(-1)
    inside = (reached - likeliest) < top_p
    inside[:, 0] = True
    held = torch.where(inside, likeliest, 0.0).cumsum(-1)
    # The first place where more is held than drawn; rounding must not lead behind the last one that counts.
    place = (held <= random_B[:, None] * held[:, -1:]).sum(-1)
    place = torch.minimum(place, inside.sum(-1) - 1)
    return ids.gather(-1, place[:, None]).squeeze(-1)

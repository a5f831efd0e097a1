"""A recogniser of fixed size and fixed training over units: how hard it is to read text from them.

The closest to what a language model meets: it sees merged units without their lengths, as the model does, knows
nothing of what they sound like, and has a fixed number of steps to find out. Embedding of units, convolution blocks,
characters by CTC, greedy decoding. A step takes the same number of units from every tokenizer, so that one with longer
sequences reads less speech in training, as a language model with its budget of tokens does. The same seed, units and
number of threads give the same error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cslm.evaluate.metrics import edit_counts, normalise
from cslm.evaluate.units.sequences import Units, merged

# About a minute on one core.
NUM_STEPS = 2000

# Chosen for what they reach with k-means units in a minute: small and many steps beat large ones.
_WIDTH, _NUM_BLOCKS, _KERNEL = 128, 3, 9
_POSITIONS_A_BATCH = 600
_LEARNING_RATE, _WARMUP_SHARE = 5e-3, 0.1
_MASKED_SHARE = 0.05
_BLANK = 0


@dataclass(frozen=True)
class ProbeResult:
    """Character error of each test set, 0 and up, and their mean: every set weighs the same."""

    errors: dict[str, float]
    num_steps: int
    positions_a_unit: int

    @property
    def mean_error(self) -> float:
        """Mean character error of the test sets."""
        return sum(self.errors.values()) / len(self.errors)


Spoken = tuple[Units, str]  # an utterance's units and its text


def probe(
    train: Sequence[Spoken],
    tests: Mapping[str, Sequence[Spoken]],
    codebook_size: int,
    *,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
) -> ProbeResult:
    """Train the recogniser on `train` for `num_steps` and read every test set with it.

    Where there are fewer units than CTC needs for the text, each gets several positions: the fewest with which 99 of
    100 train utterances can be read. Raises ValueError when there is nothing to learn or to read.
    """
    texts = [normalise(text) for _, text in train]
    alphabet = sorted(set("".join(texts)))
    if not alphabet or not tests or not all(tests.values()):
        raise ValueError(f"a probe needs texts to learn and test sets to read, found {len(train)} and {len(tests)}")
    runs = [torch.from_numpy(merged(units).astype(np.int64)) for units, _ in train]
    number = {character: 1 + place for place, character in enumerate(alphabet)}
    targets = [torch.tensor([number[character] for character in text], dtype=torch.long) for text in texts]
    positions_a_unit = _positions_a_unit(runs, targets)
    # Weights and masks are drawn from torch's own source, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UnitReader(codebook_size, 1 + len(alphabet), positions_a_unit)
        _train(network, runs, targets, num_steps, seed)
    errors = {name: _character_error(network, alphabet, spoken) for name, spoken in tests.items()}
    return ProbeResult(errors, num_steps, positions_a_unit)


class UnitReader(nn.Module):
    """Units (B, U) -> log-probabilities of characters (B, U * positions_a_unit, characters), blank first.

    What stands behind an utterance's end changes nothing: it is zeroed before every convolution.
    """

    def __init__(self, codebook_size: int, num_characters: int, positions_a_unit: int = 1) -> None:
        super().__init__()
        self.positions_a_unit = positions_a_unit
        self.mask_id = codebook_size
        self.embedding = nn.Embedding(codebook_size + 1, _WIDTH * positions_a_unit)
        self.blocks = nn.ModuleList(_Block() for _ in range(_NUM_BLOCKS))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, num_characters)

    def forward(self, units_BU: Tensor, lengths_B: Tensor) -> Tensor:
        """Lengths count units; rows behind them are of no meaning."""
        positions = units_BU.shape[1] * self.positions_a_unit
        hidden_BTC = self.embedding(units_BU).reshape(len(units_BU), positions, _WIDTH)
        kept_BT1 = (torch.arange(positions) < self.positions_a_unit * lengths_B[:, None])[:, :, None]
        for block in self.blocks:
            hidden_BTC = block(hidden_BTC, kept_BT1)
        log_probabilities: Tensor = F.log_softmax(self.head(self.norm(hidden_BTC)), dim=-1)
        return log_probabilities


class _Block(nn.Module):
    """A depthwise convolution and two linear layers around a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(_WIDTH, _WIDTH, _KERNEL, padding=_KERNEL // 2, groups=_WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 2 * _WIDTH), nn.Linear(2 * _WIDTH, _WIDTH)

    def forward(self, hidden_BTC: Tensor, kept_BT1: Tensor) -> Tensor:
        near_BCT = self.convolution((hidden_BTC * kept_BT1).transpose(1, 2))
        added: Tensor = hidden_BTC + self.down(F.gelu(self.up(self.norm(near_BCT.transpose(1, 2)))))
        return added


def _train(network: UnitReader, runs: Sequence[Tensor], targets: Sequence[Tensor], num_steps: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    warmup = max(1, round(_WARMUP_SHARE * num_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup))
    )
    rng = np.random.default_rng(seed)
    batches: list[list[int]] = []
    network.train()
    for _ in range(num_steps):
        if not batches:
            batches = _batches([len(run) for run in runs], network.positions_a_unit, rng)
        chosen = batches.pop()
        units_BU, lengths_B = _padded([runs[i] for i in chosen])
        hidden = torch.rand(units_BU.shape) < _MASKED_SHARE
        log_probabilities_BTC = network(units_BU.masked_fill(hidden, network.mask_id), lengths_B)
        wanted = [targets[i] for i in chosen]
        sizes = torch.tensor([len(target) for target in wanted])
        loss = (
            F.ctc_loss(
                log_probabilities_BTC.transpose(0, 1),
                torch.cat(wanted),
                lengths_B * network.positions_a_unit,
                sizes,
                blank=_BLANK,
                reduction="sum",
                zero_infinity=True,
            )
            / sizes.sum()
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def _batches(lengths: Sequence[int], positions_a_unit: int, rng: np.random.Generator) -> list[list[int]]:
    """All utterances once, in batches of like length and in random order; like lengths meet others in every round."""
    order = np.argsort(np.asarray(lengths) * rng.uniform(0.9, 1.1, len(lengths)))
    batches: list[list[int]] = []
    longest = 0
    for place in order:
        longest = max(longest, lengths[place])
        if not batches or longest * positions_a_unit * (len(batches[-1]) + 1) > _POSITIONS_A_BATCH:
            batches.append([])
            longest = lengths[place]
        batches[-1].append(int(place))
    return [batches[i] for i in rng.permutation(len(batches))]


def _padded(runs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return nn.utils.rnn.pad_sequence(list(runs), batch_first=True), torch.tensor([len(run) for run in runs])


def _positions_a_unit(runs: Sequence[Tensor], targets: Sequence[Tensor]) -> int:
    """CTC needs a position for each character, and one between two that are the same."""
    needed = [
        math.ceil((len(target) + int((target[1:] == target[:-1]).sum())) / max(1, len(run)))
        for run, target in zip(runs, targets, strict=True)
    ]
    return max(1, int(np.quantile(needed, 0.99, method="lower")))


@torch.no_grad()
def _character_error(network: UnitReader, alphabet: Sequence[str], spoken: Sequence[Spoken]) -> float:
    errors = characters = 0
    runs = [torch.from_numpy(merged(units).astype(np.int64)) for units, _ in spoken]
    order = sorted(range(len(runs)), key=lambda place: len(runs[place]))
    for first in range(0, len(order), 32):
        chosen = order[first : first + 32]
        units_BU, lengths_B = _padded([runs[i] for i in chosen])
        best_BT = network(units_BU, lengths_B).argmax(-1)
        for place, best_T, length in zip(chosen, best_BT, lengths_B.tolist(), strict=True):
            path = torch.unique_consecutive(best_T[: length * network.positions_a_unit])
            text = "".join(alphabet[label - 1] for label in path.tolist() if label != _BLANK)
            counts = edit_counts(spoken[place][1], text)
            errors += counts.character_errors
            characters += counts.characters
    return errors / max(1, characters)

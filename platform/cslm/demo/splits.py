"""What belongs to train, dev and test: a property of each meaning and each question, not of a corpus.

The same statement and the same question fall into the same split whatever the size, the languages and the seed of a
corpus, so that corpora made at different times (a new language, more hours) can be used together and nothing that one
of them tests was ever trained on. Statements are split by meaning, in all languages alike. Questions are split by
fact, wording and language: of a fact's four wordings in a language at least two belong to train.
"""

import random
from functools import cache

import numpy as np
import numpy.typing as npt

from cslm.demo.facts import Fact, all_facts
from cslm.demo.grammar import STATEMENTS, largest_choices, num_meanings

SPLITS = ("train", "dev", "test")
NUM_QUESTION_WORDINGS = 4
_DEV_SHARE, _TEST_SHARE = 1 / 24, 2 / 24


def draw(*key: object) -> random.Random:
    """A source of chance that is the same for the same key, on any machine."""
    return random.Random("/".join(map(str, key)))


@cache
def meanings_by_split(kind: str) -> tuple[npt.NDArray[np.int64], ...]:
    """The indices of a kind's meanings, one array for each of `SPLITS`."""
    indices = np.random.default_rng(list(STATEMENTS).index(kind)).permutation(num_meanings(kind))
    place = np.arange(len(indices)) % 24
    return indices[place >= 3], indices[place == 2], indices[place < 2]


def meanings_of(
    kind: str, count: int, seed: int, *, phase: float, concepts: int | None = None
) -> npt.NDArray[np.int64]:
    """`count` different meanings of a kind as rows of (index, number of split), every split in its share.

    With `concepts`, only the first so many of every inventory are spoken of.

    `phase`, from 0 to 1, says how soon the first held-out meaning comes: kinds with evenly spread phases have the
    right shares together even where each gives only a few.
    """
    rows, keys = [], []
    largest = largest_choices(kind)
    for split, indices in enumerate(meanings_by_split(kind)):
        if concepts is not None:
            indices = indices[largest[indices] < concepts]
        chosen = np.random.default_rng([seed, list(STATEMENTS).index(kind), split]).permutation(indices)
        rows.append(np.stack([chosen, np.full(len(chosen), split)], axis=1))
        # Held-out meanings of the two splits start at opposite ends of the kinds.
        offset = (0.5, 1 - phase, phase)[split]
        keys.append((np.arange(len(chosen)) + offset) / len(chosen))
    order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(rows)[order[:count]]


@cache
def question_splits(fact: Fact, language: str) -> tuple[str, ...]:
    """The split of each wording of a fact's question in a language."""
    place = _places()[fact]
    chance = draw("questions", language)
    num_test = _quota(place, NUM_QUESTION_WORDINGS * _TEST_SHARE, chance.random())
    num_dev = _quota(place, NUM_QUESTION_WORDINGS * _DEV_SHARE, chance.random())
    splits = ["test"] * num_test + ["dev"] * num_dev
    splits += ["train"] * (NUM_QUESTION_WORDINGS - len(splits))
    draw("questions", language, fact.kind, *fact.slots).shuffle(splits)
    return tuple(splits)


@cache
def _places() -> dict[Fact, int]:
    return {fact: place for place, fact in enumerate(all_facts())}


def _quota(place: int, share: float, phase: float) -> int:
    """How many whole items fall to a place when every place has a right to `share` of one."""
    return int((place + 1) * share + phase) - int(place * share + phase)

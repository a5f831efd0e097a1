"""Language tags: which of a corpus' tags is the language that was asked for."""

import re
from collections.abc import Iterable
from functools import lru_cache

from cslm.data.texts.settings import TAG_PATTERN

_TAG = re.compile(TAG_PATTERN)


@lru_cache(1024)
def is_tag(text: str) -> bool:
    """Whether a text has the form of a BCP-47 tag."""
    return bool(_TAG.match(text))


def best_match(wanted: str, found: Iterable[str]) -> str | None:
    """The tag among `found` that is the language `wanted`, None when there is none.

    An equal tag goes first, then a narrower one (`en` takes `en-US`), then a wider one (`en-US` takes `en`); between
    `en-US` and `en-GB` there is no match. Case and the kind of dash do not matter.
    """
    goal = _plain(wanted)
    best: tuple[int, str] | None = None
    for tag in found:
        plain = _plain(tag)
        if plain == goal:
            return tag
        rank = 1 if plain.startswith(goal + "-") else 2 if goal.startswith(plain + "-") else 0
        if rank and (best is None or rank < best[0]):
            best = (rank, tag)
    return best[1] if best else None


def _plain(tag: str) -> str:
    return tag.replace("_", "-").lower()

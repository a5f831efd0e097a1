"""An answer cut into chunks: a few words of text, each with the units that speak them.

Text and units are both cut before words and nowhere else. The chunks' texts are the text and their units the units,
whatever the alignment says; a chunk without sound is laid together with its neighbour.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# A cut costs nothing behind a sentence, a little behind a clause, and otherwise as much as a chunk that is half as long
# or one and a half times as long as it should be: 7 words give 4 to 11 inside a sentence.
_CLAUSE_COST, _NO_PUNCTUATION_COST = 0.1, 0.5
_SENTENCE_END = re.compile(r"[.!?…。！？｡؟۔।॥።։]")
_CLAUSE_END = re.compile(r"[,;:，；：、､،؛—–‥·\-()«»“”\"]")
# Where what stands between two words goes over to the second: at the space, or at signs that open.
_OPENING = re.compile(r"\s*[¿¡“‘«„「『（(\[{《〈【]|\s+(?=\S*$)")
# Where words are written without spaces, a space parts clauses (as in Thai).
_FEW_SPACES = 0.5


class Word(NamedTuple):
    """A word as the text writes it, and its units `start <= unit < end`; none for one without sound."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Spoken:
    """An utterance as units: codes [U] with repeats merged, and its words in order where it is aligned."""

    units: Sequence[int]
    words: Sequence[Word] | None = None


@dataclass(frozen=True)
class Chunk:
    """Text, with the space before its first word, and the units that speak it."""

    text: str
    units: list[int]


def cut(text: str, spoken: Spoken, num_words: int) -> list[Chunk]:
    """Cut a text and its speech into chunks of about `num_words` words.

    Each chunk has the units from its first word's start up to the next chunk's; the first also those before. Raises
    ValueError when the utterance is not aligned, or its words are not those of the text.
    """
    if spoken.words is None:
        raise ValueError("an utterance must be aligned to be cut at its words")
    places = _places(text, spoken.words)
    # Where each chunk begins in text and units. One that would have no units stays with what came before.
    starts: list[tuple[int, int]] = [(0, 0)]
    firsts = word_cuts(_gaps(text, places), num_words)
    for first, end in zip(firsts, [*firsts[1:], len(places)], strict=True):
        sounding = next((word.start for word in spoken.words[first:end] if word.end > word.start), None)
        if first == 0 or sounding is None or sounding <= starts[-1][1] or sounding >= len(spoken.units):
            continue
        before = places[first - 1][1]
        opening = _OPENING.search(text, before, places[first][0])
        starts.append((opening.start() if opening else places[first][0], sounding))
    ends = [*starts[1:], (len(text), len(spoken.units))]
    return [
        Chunk(text[text_start:text_end], list(spoken.units[unit_start:unit_end]))
        for (text_start, unit_start), (text_end, unit_end) in zip(starts, ends, strict=True)
    ]


def word_cuts(gaps: Sequence[str], num_words: int) -> list[int]:
    """The first word of each chunk, of `len(gaps) + 1` words with `gaps` between them.

    The cuts of least cost: the squared deviation of each chunk's length from `num_words`, in shares of it, and for each
    cut what it costs to part the words there.
    """
    total = len(gaps) + 1
    costs = _cut_costs(gaps)
    # Of the words up to here: least cost, and where the last chunk begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    longest = 2 * num_words + 1
    for end in range(1, total + 1):
        options = []
        for first in range(max(0, end - longest), end):
            length_cost = ((end - first) / num_words - 1) ** 2
            options.append((best[first][0] + (costs[first - 1] if first else 0.0) + length_cost, first))
        best.append(min(options))
    firsts, end = [], total
    while end:
        end = best[end][1]
        firsts.append(end)
    return firsts[::-1]


def _places(text: str, words: Sequence[Word]) -> list[tuple[int, int]]:
    """Where each word stands in the text."""
    places, at = [], 0
    for word in words:
        start = text.find(word.text, at)
        if start < 0:
            raise ValueError(f"the words of an alignment must stand in its text in order, {word.text!r} does not")
        at = start + len(word.text)
        places.append((start, at))
    return places


def _gaps(text: str, places: Sequence[tuple[int, int]]) -> list[str]:
    return [text[end:start] for (_, end), (start, _) in itertools.pairwise(places)]


def _cut_costs(gaps: Sequence[str]) -> list[float]:
    spaces = sum(any(letter.isspace() for letter in gap) for gap in gaps)
    spaces_part = spaces < _FEW_SPACES * len(gaps)
    costs = []
    for gap in gaps:
        if _SENTENCE_END.search(gap):
            costs.append(0.0)
        elif _CLAUSE_END.search(gap) or (spaces_part and any(letter.isspace() for letter in gap)):
            costs.append(_CLAUSE_COST)
        else:
            costs.append(_NO_PUNCTUATION_COST)
    return costs

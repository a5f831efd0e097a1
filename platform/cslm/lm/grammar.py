"""What may follow what: a small automaton for each task, so that whatever a model prefers its output can be read.

Tokens fall into a few kinds. A grammar says which kind may come next in each state, how long a span may get, and how
many tokens it takes at least to end well, so that a limit is never met in the middle of a span. States, kinds and
bounds of a whole batch are a few small arrays; what they cost does not show beside the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cslm.lm.vocabulary import ANSWER, QUESTION, SPEECH_END, SPEECH_START, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
# How text and speech of an answer follow each other: as `chain.Form`, or whatever of them the model chooses.
AnswerForm = Literal["any", "interleaved", "full", "interleaved_no_question", "full_no_question"]
# Whether an answer has speech: always, never, or as the model likes.
Spoken = Literal["always", "never", "free"]


class Kind(IntEnum):
    """The kinds of tokens that a grammar tells apart."""

    TEXT = 0
    UNIT = 1
    SPEECH_START = 2
    SPEECH_END = 3
    QUESTION = 4
    ANSWER = 5
    STOP = 6


# The kind of ids that never come: other marks of the text tokenizer, rows that fill up the embedding.
_NEVER = len(Kind)
_NOWHERE = -1
_BITS = 1 << np.arange(len(Kind))


@dataclass(frozen=True)
class Grammar:
    """An automaton; it starts in state 0.

    `follows` [S, K]: the state after each kind, -1 where it may not come. `content` [S]: the kind that makes the span
    of this state longer, -1 outside of spans. `to_end` [S]: tokens to the end at least.
    """

    follows: Ints
    content: Ints
    to_end: Ints


class _Drawing:
    """States and edges while a grammar is drawn up."""

    def __init__(self) -> None:
        self.edges: list[dict[Kind, int]] = []
        self.content: list[int] = []

    def state(self, content: int = _NOWHERE) -> int:
        self.edges.append({})
        self.content.append(content)
        return len(self.edges) - 1

    def edge(self, before: int, kind: Kind, after: int) -> None:
        self.edges[before][kind] = after

    def span(self, kind: Kind, before: int) -> int:
        """A span of one token or more of a kind; returns the state in which it may go on or be left."""
        inside = self.state(content=kind)
        self.edge(before, kind, inside)
        self.edge(inside, kind, inside)
        return inside

    def speech(self, before: int) -> int:
        opened = self.state(content=Kind.UNIT)
        self.edge(before, Kind.SPEECH_START, opened)
        after = self.state()
        self.edge(self.span(Kind.UNIT, opened), Kind.SPEECH_END, after)
        return after

    def grammar(self, end: int) -> Grammar:
        self.edge(end, Kind.STOP, end)
        follows = np.full((len(self.edges), len(Kind)), _NOWHERE)
        for state, edges in enumerate(self.edges):
            for kind, after in edges.items():
                follows[state, kind] = after
        to_end = np.full(len(self.edges), len(self.edges) + 1)
        to_end[end] = 0
        for _ in self.edges:
            for state, edges in enumerate(self.edges):
                if state != end:
                    to_end[state] = 1 + min(to_end[after] for after in edges.values())
        return Grammar(follows, np.array(self.content), to_end)


@cache
def text_only() -> Grammar:
    """Text, then the end of the turn."""
    drawing = _Drawing()
    start, end = drawing.state(content=Kind.TEXT), drawing.state()
    drawing.edge(drawing.span(Kind.TEXT, start), Kind.STOP, end)
    return drawing.grammar(end)


@cache
def speech_only() -> Grammar:
    """One span of speech, then the end of the turn."""
    drawing = _Drawing()
    start, end = drawing.state(), drawing.state()
    drawing.edge(drawing.speech(start), Kind.STOP, end)
    return drawing.grammar(end)


@cache
def answer(form: AnswerForm = "any", spoken: Spoken = "always", *, marked: bool = True) -> Grammar:
    """An answer in a form of the chain of modality; without `marked` from the answer's own text on.

    A question that came as text is answered without marks, as in training.
    """
    drawing = _Drawing()
    start, end = drawing.state(), drawing.state()
    opened = start
    if marked:
        opened = drawing.state(content=Kind.TEXT)
        if not form.endswith("no_question"):
            asked = drawing.state(content=Kind.TEXT)
            drawing.edge(start, Kind.QUESTION, asked)
            drawing.edge(drawing.span(Kind.TEXT, asked), Kind.ANSWER, opened)
        if form == "any" or form.endswith("no_question"):
            drawing.edge(start, Kind.ANSWER, opened)
    else:
        drawing.content[start] = Kind.TEXT
    text = drawing.span(Kind.TEXT, opened)
    if spoken != "always":
        drawing.edge(text, Kind.STOP, end)
    if spoken != "never":
        said = drawing.speech(text)
        drawing.edge(said, Kind.STOP, end)
        if not form.startswith("full"):
            # A later chunk is spoken like the first, so it is another state than the text that may be all.
            more = drawing.span(Kind.TEXT, said)
            opened_again = drawing.edges[text][Kind.SPEECH_START]
            drawing.edge(more, Kind.SPEECH_START, opened_again)
    return drawing.grammar(end)


def kinds(layout: Vocabulary, tokenizer: "PreTrainedTokenizerFast", stop_ids: Sequence[int], num_rows: int) -> Ints:
    """The kind of every row [num_rows] of the embedding; marks of the text tokenizer's own are never text."""
    found = np.full(num_rows, _NEVER)
    found[: layout.num_text] = Kind.TEXT
    found[layout.num_text : layout.num_text + layout.num_units] = Kind.UNIT
    marks = [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]
    found[[token for token in marks if token < layout.num_text]] = _NEVER
    for name, kind in (
        (SPEECH_START, Kind.SPEECH_START), (SPEECH_END, Kind.SPEECH_END), (QUESTION, Kind.QUESTION),
        (ANSWER, Kind.ANSWER),
    ):  # fmt: skip
        found[layout.special(name)] = kind
    found[list(stop_ids)] = Kind.STOP
    return found


@dataclass(frozen=True)
class Bounds:
    """How long an output and its spans may be, all at least 1. Spans of text are those of question and answer each."""

    tokens: int
    text_tokens: int
    speech_units: int


class Guide:
    """Where each of a number of outputs stands in its grammar, and what may come next."""

    def __init__(self, grammars: Sequence[Grammar], bounds: Sequence[Bounds], kinds: Ints) -> None:
        """`kinds` as the function of that name gives them. Each bound must leave room for the shortest output."""
        self._kinds = kinds
        distinct = list({id(grammar): grammar for grammar in grammars}.values())
        offsets = np.cumsum([0, *(len(grammar.content) for grammar in distinct)])
        self._follows = np.concatenate(
            [np.where(one.follows < 0, _NOWHERE, one.follows + at) for one, at in zip(distinct, offsets, strict=False)]
        )
        self._content = np.concatenate([one.content for one in distinct])
        # What may not come is as far from the end as anything can be.
        self._to_end = np.append(np.concatenate([one.to_end for one in distinct]), np.iinfo(np.int64).max)
        place = {id(grammar): at for grammar, at in zip(distinct, offsets, strict=False)}
        self._state = np.array([place[id(grammar)] for grammar in grammars])
        self._left = np.array([one.tokens for one in bounds])
        self._limits = np.array([[one.text_tokens, one.speech_units] for one in bounds])
        self._span = np.zeros(len(grammars), dtype=np.int64)
        # Whether a limit forbade what might have come.
        self.was_cut = np.zeros(len(grammars), dtype=np.bool_)
        short = self._left < self._to_end[self._state]
        if short.any():
            row = int(np.flatnonzero(short)[0])
            raise ValueError(
                f"output {row} needs {self._to_end[self._state[row]]} tokens, found room for {self._left[row]}"
            )

    def left(self, rows: Ints) -> Ints:
        """Tokens that some outputs may still have at most."""
        return self._left[rows]

    def ended(self, rows: Ints) -> Bools:
        """Whether some outputs [B] have ended; they may then only be followed by more ends."""
        over: Bools = self._to_end[self._state[rows]] == 0
        return over

    def allowed(self, rows: Ints) -> Bools:
        """Which kinds [B, K] may come next in some outputs [B]. `was_cut` notes where a limit forbade one."""
        state = self._state[rows]
        follows = self._follows[state]
        free = follows >= 0
        within: Bools = free & (self._to_end[follows] <= np.maximum(self._left[rows] - 1, 0)[:, None])
        content = self._content[state]
        inside = np.flatnonzero(content >= 0)
        kind = content[inside]
        full = self._span[rows[inside]] >= self._limits[rows[inside], (kind == Kind.UNIT).astype(np.int64)]
        within[inside[full], kind[full]] = False
        self.was_cut[rows[(free & ~within).any(1)]] = True
        return within

    def advance(self, rows: Ints, tokens: Ints) -> None:
        """Go on by one token each in some outputs [B]."""
        kind = self._kinds[tokens]
        state = self._follows[self._state[rows], kind]
        assert (state >= 0).all(), "a token was chosen that may not come"
        self._state[rows] = state
        self._span[rows] = np.where(kind <= Kind.UNIT, self._span[rows] + 1, 0)
        self._left[rows] -= 1


def combination(allowed: Bools) -> Ints:
    """A number for each set of kinds [B, K] -> [B], the same for equal sets."""
    numbers: Ints = allowed @ _BITS
    return numbers


def ids_of(number: int, kinds: Ints) -> Bools:
    """Which ids [V] are of the kinds of a combination."""
    members = np.zeros(len(Kind) + 1, dtype=np.bool_)
    members[: len(Kind)] = (number & _BITS) > 0
    found: Bools = members[kinds]
    return found

"""Chain of modality: how the answer to a spoken question is written as text and speech.

The whole chain is `[question] TQ [answer] TA <sosp> SA <eosp>`: the model first writes what it heard, then what it
answers, then says it (CSLM, section on chain-of-modality generation). Text is the bridge between the languages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cslm.config import Section, setting
from cslm.lm.vocabulary import ANSWER, QUESTION, SPEECH_END, SPEECH_START, Vocabulary


class ChainSection(Section):
    """How text and speech follow each other in an answer."""

    form: Literal["interleaved", "full", "interleaved_no_question", "full_no_question"] = setting(
        "interleaved",
        "text and speech in chunks by turns (needs data.alignments), or the whole text and then the speech",
    )
    chunk_words: int = setting(7, "words of a chunk of an interleaved answer", unit="words", ge=1)


@dataclass(frozen=True)
class Spoken:
    """An utterance as units (repeats merged), their durations in frames, and its words (text, start, end frame)."""

    units: Sequence[int]
    durations: Sequence[int]
    words: Sequence[tuple[str, int, int]] | None = None


def speech_span(units: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Units [N] -> token ids [N + 2] between the marks of speech."""
    ids = vocabulary.unit_ids(units).tolist()
    return [vocabulary.special(SPEECH_START), *ids, vocabulary.special(SPEECH_END)]


def whole_chain(
    question_ids: Sequence[int], answer_ids: Sequence[int], answer_units: Sequence[int] | None, vocabulary: Vocabulary
) -> list[int]:
    """Token ids of `[question] TQ [answer] TA <sosp> SA <eosp>`; without units the speech is left out."""
    chain = [vocabulary.special(QUESTION), *question_ids, vocabulary.special(ANSWER), *answer_ids]
    if answer_units is not None:
        chain += speech_span(answer_units, vocabulary)
    return chain

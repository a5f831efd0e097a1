"""Chain of modality: how the answer to a spoken question is written as text and speech.

The model first writes what it heard, then what it answers, a few words at a time, each chunk followed at once by its
speech: `[question] TQ [answer] TA1 <sosp> SA1 <eosp> TA2 <sosp> SA2 <eosp> ...` (CSLM, section on interleaved
chain-of-modality). Text is the bridge between the languages; chunks let the listener hear the answer early.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from cslm import storage
from cslm.config import Section, setting
from cslm.lm.chunks import Chunk, Spoken, cut
from cslm.lm.vocabulary import ANSWER, QUESTION, SPEECH_END, SPEECH_START, Vocabulary

CHAIN_FILE = "cslm_chain.json"
Form = Literal["interleaved", "full", "interleaved_no_question", "full_no_question"]


class ChainSection(Section):
    """How the answer to a spoken question is written."""

    form: Form = setting(
        "interleaved",
        "interleaved: chunks of text, each followed by its speech (needs alignments); full: all of the text, then all "
        "of the speech; no_question: without writing down what was asked",
    )
    chunk_words: int = setting(7, "words of a chunk, about; cuts fall at punctuation where there is some near", ge=1)

    @property
    def is_interleaved(self) -> bool:
        """Whether answers are cut into chunks, which takes the alignment of their speech."""
        return self.form.startswith("interleaved")

    @property
    def has_question(self) -> bool:
        """Whether the question is written down before the answer."""
        return not self.form.endswith("no_question")


def record(section: ChainSection, folder: str) -> None:
    """Note beside a model in which form it was taught to answer."""
    storage.write_json(storage.join(folder, CHAIN_FILE), section.model_dump(mode="json"))


def recorded(folder: str) -> ChainSection | None:
    """The form in which the model of a folder was taught to answer, None where that is not noted."""
    path = storage.join(folder, CHAIN_FILE)
    return ChainSection(**storage.read_json(path)) if storage.exists(path) else None


def speech_span(units: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Units [N] -> token ids [N + 2] between the marks of speech."""
    ids = vocabulary.unit_ids(units).tolist()
    return [vocabulary.special(SPEECH_START), *ids, vocabulary.special(SPEECH_END)]


def answer(
    text: str, spoken: Spoken | None, section: ChainSection, encode: Callable[[str], list[int]], vocabulary: Vocabulary
) -> list[int]:
    """Token ids of an answer: its text and, where it is spoken, its speech, in chunks or one behind the other.

    Raises ValueError when it is to be cut into chunks and the speech is not aligned to the text.
    """
    if spoken is None:
        return encode(text)
    if not section.is_interleaved:
        return [*encode(text), *speech_span(spoken.units, vocabulary)]
    ids: list[int] = []
    for chunk in cut(text, spoken, section.chunk_words):
        ids += [*encode(chunk.text), *speech_span(chunk.units, vocabulary)]
    return ids


def with_question(
    question: str, answer_ids: Sequence[int], section: ChainSection, encode: Callable[[str], list[int]],
    vocabulary: Vocabulary,
) -> list[int]:  # fmt: skip
    """Token ids of `[question] TQ [answer] ...`, or from `[answer]` on where the form has no question."""
    asked = [vocabulary.special(QUESTION), *encode(question)] if section.has_question else []
    return [*asked, vocabulary.special(ANSWER), *answer_ids]


def alternating(
    chunks: Sequence[Chunk], *, speech_first: bool, encode: Callable[[str], list[int]], vocabulary: Vocabulary
) -> list[int]:
    """Token ids of an utterance that goes from text to speech, or back, at every chunk.

    The form of the papers on scaling interleaved speech and text (Nguyen et al. 2024, arXiv:2402.05755; Zeng et al.
    2024, arXiv:2411.17607): what comes next is said in the other modality.
    """
    ids: list[int] = []
    for number, chunk in enumerate(chunks):
        is_speech = (number % 2 == 0) == speech_first
        ids += speech_span(chunk.units, vocabulary) if is_speech else encode(chunk.text)
    return ids


def split(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[list[int], list[int], list[int]]:
    """What a chain in any form says: ids of the question's text, of the answer's text, and units of its speech.

    Without the answer's mark nothing counts as answered.
    """
    question, answered = vocabulary.special(QUESTION), vocabulary.special(ANSWER)
    body = list(ids[1:]) if ids and ids[0] == question else list(ids)
    if answered not in body:
        return body, [], []
    place = body.index(answered)
    text: list[int] = []
    speech: list[int] = []
    inside = False
    for token in body[place + 1 :]:
        if token == vocabulary.special(SPEECH_START):
            inside = True
        elif token == vocabulary.special(SPEECH_END):
            inside = False
        else:
            (speech if inside else text).append(token)
    return body[:place], text, vocabulary.units(speech).tolist()


def spans(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[list[int] | None, list[tuple[bool, list[int]]]]:
    """What an output of any task says, in order: ids of the question, None where none is written down, and the spans.

    A span is (whether it is speech, its units or its ids of text).
    """
    marks = {vocabulary.special(mark) for mark in (SPEECH_START, SPEECH_END)}
    body, question = list(ids), None
    answered = vocabulary.special(ANSWER)
    if answered in body:
        place = body.index(answered)
        if body[0] == vocabulary.special(QUESTION):
            question = body[1:place]
        body = body[place + 1 :]
    elif body and body[0] == vocabulary.special(QUESTION):
        return body[1:], []
    found: list[tuple[bool, list[int]]] = []
    is_new = True
    for token in body:
        if token in marks:
            is_new = True
            continue
        is_speech = token >= vocabulary.num_text
        if is_new or found[-1][0] != is_speech:
            found.append((is_speech, []))
        found[-1][1].append(token - vocabulary.num_text if is_speech else token)
        is_new = False
    return question, found

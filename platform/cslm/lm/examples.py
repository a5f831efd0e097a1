"""From a table's row to what the model sees: token ids and the mask of what it is asked to predict.

Every example but `spans` is one chat in the tokenizer's own template; each has one begin-of-text token. The loss lies
on the assistant's content and the mark that ends its turn, never on prompts or headers. Which examples a row can give
is known without making them: they are its groups, `task/language` or `task/source-target`.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cslm.lm import chain, text_tokenizer
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken, cut
from cslm.lm.prompts import ChatFrame, Task, templates
from cslm.lm.vocabulary import SPEECH_START, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = Mapping[str, Any]
# Goes up when the same row gives another example.
VERSION = 1
# The tasks and the table that each is made from.
TASKS: dict[str, str] = {
    "asr": "units",
    "tts": "units",
    "spans": "units",
    "mt": "parallel_text",
    "st": "parallel_text",
    "s2st": "parallel_text",
    "text": "dialogues",
    "answer": "dialogues",
}

# Those whose rows name utterances that lie elsewhere in the units table.
SPEAKING_TASKS = ("st", "s2st", "answer")


class SetAside(Exception):
    """An example that cannot be made. `reason`: `too_long`, `no_units`, `not_aligned` or `one_chunk`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Example:
    """One training example: `input_ids` and `loss_mask` of equal length, its group (`asr/en`) and its row's id.

    A dialogue that was split has `<id>#<n>`.
    """

    input_ids: list[int]
    loss_mask: list[int]
    task: str
    source: str


def groups_of(table: str, row: Row) -> list[str]:
    """The groups of which a row of a table can give an example."""
    if table == "units":
        return [f"{task}/{row['language']}" for task in ("asr", "tts", "spans")] if row["text"] else []
    if table == "parallel_text":
        direction = f"{row['source_language']}-{row['target_language']}"
        tasks = ["mt"]
        if row.get("source_audio"):
            tasks += ["st", "s2st"] if row.get("target_audio") else ["st"]
        return [f"{task}/{direction}" for task in tasks]
    turns = row["turns"]
    asked = next(turn["language"] for turn in turns if turn["role"] == "user")
    is_spoken = any(turn["audio"] is not None for turn in turns)
    return [f"{'answer' if is_spoken else 'text'}/{asked}-{turns[-1]['language']}"]


def needs_alignment(task: str, section: ChainSection) -> bool:
    """Whether examples of a task cannot be made without the times of words."""
    return task == "spans" or (task in ("answer", "s2st") and section.is_interleaved)


def spoken_needed(group: str, row: Row, section: ChainSection) -> dict[str, bool]:
    """Ids of the utterances that an example takes units of, and whether of each the alignment is needed too."""
    task = group.partition("/")[0]
    aligned = needs_alignment(task, section)
    if task == "spans":
        return {row["id"]: aligned}
    if task == "st":
        return {row["source_audio"]: aligned}
    if task == "s2st":
        return {row["source_audio"]: False, row["target_audio"]: aligned}
    if task != "answer":
        return {}
    return {
        turn["audio"]: aligned and turn["role"] == "assistant" for turn in row["turns"] if turn["audio"] is not None
    }


class ExampleBuilder:
    """Builds examples and prompts for one tokenizer and vocabulary."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        vocabulary: Vocabulary,
        section: ChainSection | None = None,
        row_length: int | None = None,
    ) -> None:
        """`row_length`: tokens that an example may have at most, any number when not given."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._section = section or ChainSection()
        self._row_length = row_length
        self._frame = ChatFrame(tokenizer)
        self._pieces: dict[str, list[int]] = {}

    def build(self, group: str, row: Row, spoken: Mapping[str, Spoken]) -> list[Example]:
        """The examples of a group that a row gives: one, or several where a dialogue is split at its turns.

        `spoken` holds the utterances of `spoken_needed` as far as they are known. Raises SetAside.
        """
        if group.startswith("spans/"):
            examples = [self._spans(group, row, spoken)]
        else:
            turns = self._turns(group, row, spoken)
            parts = list(self._parts(turns))
            names = [row["id"]] if len(parts) == 1 else [f"{row['id']}#{number}" for number in range(len(parts))]
            examples = [self._chat(part, group, name) for part, name in zip(parts, names, strict=True)]
        if any(self._is_too_long(len(example.input_ids)) for example in examples):
            raise SetAside("too_long")
        return examples

    def prompt(self, group: str, row: Row, spoken: Mapping[str, Spoken]) -> list[int]:
        """The ids up to where the last assistant turn begins: what generation starts from. That turn is not looked at.

        Raises SetAside when an utterance of the turns before it is not known.
        """
        return self._opened(self._turns(group, row, spoken, until_answer=True))

    def opened(self, turns: Sequence[tuple[str, list[int]]]) -> list[int]:
        """The ids of turns, each its role and content, up to where the answer of the assistant begins."""
        return self._opened([*turns, ("assistant", [])])

    def spoken_question(self, units: Sequence[int], answer_language: str, example_id: str) -> list[int]:
        """The content of a user's turn that asks in speech, to be answered in a language."""
        return self._prompted("answer", answer_language, example_id, self._speech(Spoken(units)))

    def text(self, text: str) -> list[int]:
        """The content of a turn in writing."""
        return self._text(text)

    @property
    def turn_end(self) -> int:
        """The token that ends an assistant's turn."""
        return self._frame.turns(["user", "assistant"])[-1].end[0]

    def _opened(self, turns: Sequence[tuple[str, list[int]]]) -> list[int]:
        end = self._frame.turns([role for role, _ in turns])[-1].end
        ids = self._chat(turns, "", "").input_ids
        return ids[: len(ids) - len(end)]

    def _turns(
        self, group: str, row: Row, spoken: Mapping[str, Spoken], *, until_answer: bool = False
    ) -> list[tuple[str, list[int]]]:
        """Role and content of each turn; the last one's is left empty with `until_answer`."""
        task, _, name = group.partition("/")
        if task in ("text", "answer"):
            return self._dialogue(row, spoken, until_answer)
        language = row["target_language"] if TASKS[task] == "parallel_text" else name
        user = self._prompted(task, language, row["id"], self._given(task, row, spoken))  # type: ignore[arg-type]
        return [("user", user), ("assistant", [] if until_answer else self._content(task, row, spoken))]

    def _given(self, task: str, row: Row, spoken: Mapping[str, Spoken]) -> list[int]:
        if task == "asr":
            return self._speech(Spoken(row["units"]))
        if task == "tts":
            return self._text(row["text"])
        if task == "mt":
            return self._text(row["source"])
        return self._speech(_known(spoken, row["source_audio"]))

    def _content(self, task: str, row: Row, spoken: Mapping[str, Spoken]) -> list[int]:
        if task == "asr":
            return self._text(row["text"])
        if task == "tts":
            return self._speech(Spoken(row["units"]))
        if task in ("mt", "st"):
            return self._text(row["target"])
        return self._chain(row["source"], row["target"], _known(spoken, row["target_audio"]))

    def _dialogue(self, row: Row, spoken: Mapping[str, Spoken], until_answer: bool) -> list[tuple[str, list[int]]]:
        """A spoken turn by its units. The question's text is written down before the answer when it was spoken.

        A user's turn without audio stays text, and so does an answer without.
        """
        turns = row["turns"]
        last = len(turns) - 1
        found: list[tuple[str, list[int]]] = []
        for number, turn in enumerate(turns):
            if turn["role"] == "user" and turn["audio"] is not None and number < last:
                speech = self._speech(_known(spoken, turn["audio"]))
                content = self._prompted("answer", turns[number + 1]["language"], row["id"], speech)
            elif turn["role"] != "assistant":
                content = self._text(turn["text"])
            elif until_answer and number == last:
                content = []
            else:
                content = self._reply(turn, turns[number - 1] if number else None, spoken)
            found.append((turn["role"], content))
        return found

    def _reply(self, turn: Row, question: Row | None, spoken: Mapping[str, Spoken]) -> list[int]:
        speech = _known(spoken, turn["audio"]) if turn["audio"] is not None else None
        was_spoken = question is not None and question["role"] == "user" and question["audio"] is not None
        return self._chain(question["text"] if question and was_spoken else None, turn["text"], speech)

    def _chain(self, question: str | None, text: str, speech: Spoken | None) -> list[int]:
        try:
            said = chain.answer(text, speech, self._section, self._text, self._vocabulary)
        except ValueError as error:
            raise SetAside("not_aligned") from error
        if question is None:
            return said
        return chain.with_question(question, said, self._section, self._text, self._vocabulary)

    def _spans(self, group: str, row: Row, spoken: Mapping[str, Spoken]) -> Example:
        """No chat: an utterance that changes between text and speech, all of it to be predicted."""
        spoken_row = _known(spoken, row["id"])
        try:
            chunks = cut(row["text"], spoken_row, self._section.chunk_words)
        except ValueError as error:
            raise SetAside("not_aligned") from error
        if len(chunks) < 2:
            raise SetAside("one_chunk")
        speech_first = zlib.crc32(row["id"].encode()) % 2 == 0
        content = chain.alternating(chunks, speech_first=speech_first, encode=self._text, vocabulary=self._vocabulary)
        begin = self._tokenizer.bos_token_id
        begins = [] if begin is None else [begin]
        end = self._frame.turns(["user", "assistant"])[1].end
        return Example([*begins, *content, *end], [0] * len(begins) + [1] * (len(content) + len(end)), group, row["id"])

    def _parts(self, turns: Sequence[tuple[str, list[int]]]) -> Iterator[list[tuple[str, list[int]]]]:
        """The turns, or where they are too long for a row as few parts as hold them, each beginning with a question.

        A part does not know what was said before it.
        """
        exchanges: list[list[tuple[str, list[int]]]] = []
        for turn in turns:
            if not exchanges or (turn[0] == "user" and exchanges[-1][-1][0] == "assistant"):
                exchanges.append([])
            exchanges[-1].append(turn)
        held: list[tuple[str, list[int]]] = []
        for exchange in exchanges:
            if held and self._is_too_long(self._length([*held, *exchange])):
                yield held
                held = []
            held = [*held, *exchange]
        yield held

    def _length(self, turns: Sequence[tuple[str, list[int]]]) -> int:
        frames = self._frame.turns([role for role, _ in turns])
        return sum(
            len(frame.header) + len(content) + len(frame.end) for (_, content), frame in zip(turns, frames, strict=True)
        )

    def _is_too_long(self, length: int) -> bool:
        return self._row_length is not None and length > self._row_length

    def _chat(self, turns: Sequence[tuple[str, list[int]]], task: str, source: str) -> Example:
        ids: list[int] = []
        mask: list[int] = []
        frames = self._frame.turns([role for role, _ in turns])
        for (role, content), frame in zip(turns, frames, strict=True):
            target = int(role == "assistant")
            ids += [*frame.header, *content, *frame.end]
            mask += [0] * len(frame.header) + [target] * (len(content) + len(frame.end))
        return Example(ids, mask, task, source)

    def _prompted(self, task: Task, language: str, source: str, given: list[int]) -> list[int]:
        before, after = templates(language).choose(task, source)
        if given[:1] == [self._vocabulary.special(SPEECH_START)]:
            before = before.rstrip()  # between a letter and a sound a space would be a token of its own, saying nothing
        return [*self._piece(before), *given, *self._piece(after)]

    def _piece(self, text: str) -> list[int]:
        """A piece of a prompt: the same few stand in every example."""
        if text not in self._pieces:
            self._pieces[text] = self._text(text)
        return self._pieces[text]

    def _text(self, text: str) -> list[int]:
        return text_tokenizer.encode(self._tokenizer, text) if text else []

    def _speech(self, spoken: Spoken) -> list[int]:
        return chain.speech_span(spoken.units, self._vocabulary)


def _known(spoken: Mapping[str, Spoken], utterance: str) -> Spoken:
    if utterance not in spoken:
        raise SetAside("no_units")
    return spoken[utterance]

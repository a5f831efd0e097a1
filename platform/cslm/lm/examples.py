"""From a table's row to what the model sees: token ids and the mask of what it is asked to predict.

Every example is one chat in the tokenizer's own template with one begin-of-text token. The loss lies on the
assistant's content and the mark that ends its turn, never on prompts or headers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cslm.lm import chain, text_tokenizer
from cslm.lm.prompts import ChatFrame, Task, templates
from cslm.lm.vocabulary import SPEECH_START, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Example:
    """One training example: `input_ids` and `loss_mask` of equal length, its task (`asr/en`) and its row's id."""

    input_ids: list[int]
    loss_mask: list[int]
    task: str
    source: str


class SetAside(Exception):
    """An example that cannot be made; `reason` is the short name that it is counted under."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def groups_of(table: str, row: Mapping[str, Any]) -> list[str]:
    """The groups (`task/direction`) of the examples that a row of a table can give."""
    if table == "units":
        return [f"{task}/{row['language']}" for task in ("asr", "tts", "spans")] if row["text"] else []
    if table == "parallel_text":
        tasks = ["mt"]
        if row.get("source_audio") is not None:
            tasks += ["st"] if row.get("target_audio") is None else ["st", "s2st"]
        return [f"{task}/{row['source_language']}-{row['target_language']}" for task in tasks]
    spoken = any(turn["audio"] is not None for turn in row["turns"])
    return [f"{'answer' if spoken else 'text'}/{_direction(row['turns'])}"]


def spoken_needed(group: str, row: Mapping[str, Any]) -> dict[str, bool]:
    """The utterances that an example of a group needs the units of, and whether the times of their words too."""
    task = group.partition("/")[0]
    if task == "answer":
        turns = [turn for turn in row["turns"] if turn["audio"] is not None]
        return {turn["audio"]: turn["role"] == "assistant" for turn in turns}
    if task == "st":
        return {row["source_audio"]: False}
    if task == "s2st":
        return {row["source_audio"]: False, row["target_audio"]: True}
    return {}


class ExampleBuilder:
    """Builds examples and prompts for one tokenizer and vocabulary."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        vocabulary: Vocabulary,
        section: chain.ChainSection | None = None,
        row_length: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._form = (section or chain.ChainSection()).form
        self._row_length = row_length
        self._frame = ChatFrame(tokenizer)

    def build(self, group: str, row: Mapping[str, Any], spoken: Mapping[str, chain.Spoken]) -> list[Example]:
        """The examples of a row for one of its groups. Raises SetAside when there can be none."""
        task = group.partition("/")[0]
        needed = spoken_needed(group, row) | ({row["id"]: True} if task == "spans" else {})
        if any(name not in spoken for name in needed):
            raise SetAside("no_units")
        timed = task == "spans" or (task in ("answer", "s2st") and self._form.startswith("interleaved"))
        if timed and any(aligned and spoken[name].words is None for name, aligned in needed.items()):
            raise SetAside("not_aligned")
        example = self._build(task, row, {name: spoken[name].units for name in needed})
        if self._row_length is not None and len(example.input_ids) > self._row_length:
            raise SetAside("too_long")
        return [example]

    def _build(self, task: str, row: Mapping[str, Any], units: Mapping[str, Sequence[int]]) -> Example:
        if task == "asr":
            return self.recognition(row)
        if task == "tts":
            return self.synthesis(row)
        if task == "mt":
            return self.translation(row)
        if task == "text":
            return self.text_dialogue(row)
        if task == "answer":
            return self.spoken_dialogue(row, units)
        if task == "spans":
            content = [*self._text(row["text"]), *self._speech(units[row["id"]])]
            return self._single("tts", row["language"], row["language"], row["id"], [], content, named="spans")
        direction = f"{row['source_language']}-{row['target_language']}"
        given = self._speech(units[row["source_audio"]])
        content = self._text(row["target"])
        if task == "s2st":
            content = [*content, *self._speech(units[row["target_audio"]])]
        return self._single("mt", direction, row["target_language"], row["id"], given, content, named=task)

    def recognition(self, row: Mapping[str, Any]) -> Example:
        """ASR: a units row -> its transcript."""
        content = self._text(row["text"])
        return self._single("asr", row["language"], row["language"], row["id"], self._speech(row["units"]), content)

    def synthesis(self, row: Mapping[str, Any]) -> Example:
        """TTS: the transcript of a units row -> its units."""
        content = self._speech(row["units"])
        return self._single("tts", row["language"], row["language"], row["id"], self._text(row["text"]), content)

    def translation(self, row: Mapping[str, Any]) -> Example:
        """MT: a parallel_text row, source -> target."""
        task = f"{row['source_language']}-{row['target_language']}"
        content = self._text(row["target"])
        return self._single("mt", task, row["target_language"], row["id"], self._text(row["source"]), content)

    def text_dialogue(self, row: Mapping[str, Any]) -> Example:
        """Text instruction: every turn of a dialogue as text, the loss on each of the assistant's turns."""
        turns = row["turns"]
        direction = _direction(turns)
        return self._chat(
            [t["role"] for t in turns], [self._text(t["text"]) for t in turns], f"text/{direction}", row["id"]
        )

    def spoken_dialogue(self, row: Mapping[str, Any], units: Mapping[str, Sequence[int]]) -> Example:
        """Spoken turns by their units (`units` maps utterance id to units), answers as the whole chain.

        A user's turn without audio stays text; an answer without audio stays text; the question's text is written
        down before the answer when the question was spoken.
        """
        turns = row["turns"]
        contents = []
        for turn, nxt in zip(turns, [*turns[1:], None], strict=True):
            if turn["role"] == "user" and nxt is not None and turn["audio"] is not None:
                contents.append(
                    self._prompted("answer", nxt["language"], row["id"], self._speech(units[turn["audio"]]))
                )
            elif turn["role"] == "user":
                contents.append(self._text(turn["text"]))
            else:
                contents.append(self._answer(turn, turns[len(contents) - 1], units))
        return self._chat([t["role"] for t in turns], contents, f"answer/{_direction(turns)}", row["id"])

    def prompt(self, example: Example) -> list[int]:
        """The ids of an example up to where its last assistant turn begins: what generation starts from."""
        end = len(example.input_ids)
        while end and example.loss_mask[end - 1]:
            end -= 1
        return example.input_ids[:end]

    def _answer(
        self, turn: Mapping[str, Any], question: Mapping[str, Any], units: Mapping[str, Sequence[int]]
    ) -> list[int]:
        spoken = units[turn["audio"]] if turn["audio"] is not None else None
        if question["audio"] is None and spoken is None:
            return self._text(turn["text"])
        if question["audio"] is None:
            return [*self._text(turn["text"]), *chain.speech_span(spoken or [], self._vocabulary)]
        return chain.whole_chain(self._text(question["text"]), self._text(turn["text"]), spoken, self._vocabulary)

    def _single(
        self,
        task: Task,
        name: str,
        prompt_language: str,
        source: str,
        given: list[int],
        content: list[int],
        named: str | None = None,
    ) -> Example:
        user = self._prompted(task, prompt_language, source, given)
        return self._chat(["user", "assistant"], [user, content], f"{named or task}/{name}", source)

    def _prompted(self, task: Task, language: str, source: str, given: list[int]) -> list[int]:
        before, after = templates(language).choose(task, source)
        if given[:1] == [self._vocabulary.special(SPEECH_START)]:
            before = before.rstrip()  # between a letter and a sound a space would be a token of its own, saying nothing
        return [*self._text(before), *given, *self._text(after)]

    def _chat(self, roles: Sequence[str], contents: Sequence[Sequence[int]], task: str, source: str) -> Example:
        ids: list[int] = []
        mask: list[int] = []
        for role, content, frame in zip(roles, contents, self._frame.turns(roles), strict=True):
            target = int(role == "assistant")
            ids += [*frame.header, *content, *frame.end]
            mask += [0] * len(frame.header) + [target] * (len(content) + len(frame.end))
        return Example(ids, mask, task, source)

    def _text(self, text: str) -> list[int]:
        return text_tokenizer.encode(self._tokenizer, text) if text else []

    def _speech(self, units: Sequence[int]) -> list[int]:
        return chain.speech_span(units, self._vocabulary)


def _direction(turns: Sequence[Mapping[str, Any]]) -> str:
    asked = next(turn["language"] for turn in turns if turn["role"] == "user")
    return f"{asked}-{turns[-1]['language']}"

"""What a model can be asked, and the ids it is asked with: those of training, up to where the answer begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cslm.errors import ConfigError
from cslm.lm import grammar, vocabulary
from cslm.lm.chunks import Spoken
from cslm.lm.examples import TASKS, ExampleBuilder
from cslm.lm.grammar import AnswerForm, Grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Other names of tasks: a spoken question answered in speech is called so in papers on dialogue.
ALIASES = {"s2s": "answer"}
# What each task starts from.
_GIVEN: dict[str, tuple[str, ...]] = {
    "asr": ("units",),
    "tts": ("text",),
    "mt": ("text",),
    "st": ("units",),
    "s2st": ("units",),
    "text": ("text",),
    "answer": ("units", "text"),
}
NAMES = (*_GIVEN, *ALIASES)
# Those that lead from one language to another and cannot do without a second.
_TRANSLATING = ("mt", "st", "s2st")


@dataclass(frozen=True)
class Turn:
    """One turn of what was said before: `text`, or a user's `units`, or an assistant's `ids` as it wrote them.

    `language` is a user turn's answer's: the one that the model was asked to answer in.
    """

    role: Literal["system", "user", "assistant"]
    language: str
    text: str | None = None
    units: Sequence[int] | None = None
    ids: Sequence[int] | None = None


@dataclass(frozen=True)
class Prompt:
    """One thing to ask. `language` is what is said or written in, `answer_language` what is to be answered in.

    asr, st, s2st take `units`, tts, mt, text take `text`, answer (or s2s) takes either. `history` are the turns before,
    for text and answer. Where a task has several wordings, `id` chooses the one of an example with that id.
    """

    task: str
    language: str
    answer_language: str | None = None
    text: str | None = None
    units: Sequence[int] | None = None
    history: Sequence[Turn] = ()
    id: str = ""

    @property
    def name(self) -> str:
        """The task by the name that training has for it."""
        return ALIASES.get(self.task, self.task)

    @property
    def target_language(self) -> str:
        """The language of what the model is to say."""
        return self.answer_language or self.language

    @property
    def is_spoken(self) -> bool:
        """Whether speech is what it starts from."""
        return self.units is not None and len(self.units) > 0 and "units" in _GIVEN.get(self.name, ())

    def faults(self) -> list[str]:
        """What keeps it from being asked, as `field: what is wrong`."""
        if self.name not in _GIVEN:
            return [f"task: must be one of {', '.join(NAMES)}, found {self.task!r}"]
        given = _GIVEN[self.name]
        found = []
        if not any(getattr(self, field) is not None and len(getattr(self, field)) for field in given):
            found.append(f"{given[0]}: the task {self.task} needs {' or '.join(given)}, found none")
        if self.name in _TRANSLATING and not self.answer_language:
            found.append(f"answer_language: the task {self.task} needs it, found none")
        if self.history and self.name not in ("text", "answer"):
            found.append(f"history: only the tasks text, answer and s2s take turns before, found task {self.task}")
        return found

    def turn(self) -> Turn:
        """The prompt as a turn of what was said before the next."""
        if self.is_spoken:
            return Turn("user", self.target_language, units=self.units)
        return Turn("user", self.target_language, text=self.text)


def ids(prompt: Prompt, builder: ExampleBuilder) -> list[int]:
    """The token ids that generation starts from. Raises ConfigError with all faults of the prompt."""
    if faults := prompt.faults():
        raise ConfigError(faults)
    task = prompt.name
    if task in ("text", "answer"):
        turns = [*prompt.history, prompt.turn()]
        return builder.opened([(turn.role, _content(turn, prompt.id, builder)) for turn in turns])
    spoken = {prompt.id: Spoken(prompt.units)} if prompt.units is not None else {}
    row = {
        "id": prompt.id,
        "language": prompt.language,
        "source_language": prompt.language,
        "target_language": prompt.target_language,
        "text": prompt.text,
        "units": prompt.units,
        "source": prompt.text,
        "source_audio": prompt.id,
    }
    name = f"{prompt.language}-{prompt.target_language}" if TASKS[task] == "parallel_text" else prompt.language
    return builder.prompt(f"{task}/{name}", row, spoken)


def _content(turn: Turn, example_id: str, builder: ExampleBuilder) -> list[int]:
    if turn.ids is not None:
        return list(turn.ids)
    if turn.units is not None:
        return builder.spoken_question(turn.units, turn.language, example_id)
    return builder.text(turn.text or "")


def grammar_of(prompt: Prompt, form: AnswerForm, spoken: grammar.Spoken) -> Grammar:
    """What the output of a prompt may look like."""
    task = prompt.name
    if task == "tts":
        return grammar.speech_only()
    if task == "s2st" or (task == "answer" and prompt.is_spoken):
        return grammar.answer(form, spoken)
    if task == "answer":
        return grammar.answer(form, spoken, marked=False)
    return grammar.text_only()


def stop_ids(tokenizer: "PreTrainedTokenizerFast", builder: ExampleBuilder) -> list[int]:
    """The tokens that end an assistant's turn: that of the chat template, and the tokenizer's end of text."""
    end = tokenizer.eos_token_id
    return list(dict.fromkeys([builder.turn_end, *([] if end is None else [int(end)])]))


def markup(token_ids: Sequence[int], tokenizer: "PreTrainedTokenizerFast") -> str:
    """Token ids as text in which units and marks stand by their names (`<unit_17>`), for servers that take text."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def unit_names(units: Sequence[int]) -> str:
    """Units as a server is told them: `<sosp><unit_17>...<eosp>`."""
    names = "".join(f"<unit_{unit}>" for unit in units)
    return f"{vocabulary.SPEECH_START}{names}{vocabulary.SPEECH_END}"

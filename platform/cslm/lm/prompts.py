"""What the user's turn says for each task: templates in data files, one a language, and the frame of a chat.

Prompts are written in the language of the answer, so each language's file speaks only of itself and a new language
is a new file. Which paraphrase an example gets follows from its id: the same in every run.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import CheckpointError, ConfigError
from cslm.lm import text_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Task = Literal["asr", "tts", "mt", "st", "s2st", "answer"]
_TASKS: tuple[str, ...] = get_args(Task)
TEMPLATE_FOLDER = Path(__file__).parent / "templates"
# A folder with more languages, or with other prompts for those that are here. Workers get it with their environment.
PROMPTS_VARIABLE = "CSLM_PROMPTS"
# Stands for the speech or the text that the task is about.
SLOT = "{input}"


@dataclass(frozen=True)
class Templates:
    """The prompts of one language: for each task the paraphrases, each with one `{input}`."""

    language: str
    prompts: dict[str, tuple[str, ...]]

    def choose(self, task: Task, example_id: str) -> tuple[str, str]:
        """The text before and after the input in the paraphrase that `example_id` gets."""
        choices = self.prompts[task]
        before, _, after = choices[zlib.crc32(example_id.encode()) % len(choices)].partition(SLOT)
        return before, after


def templates(language: str) -> Templates:
    """The templates of a language, by its BCP-47 tag or its primary subtag. Raises ConfigError when there are none."""
    return _templates(language, os.environ.get(PROMPTS_VARIABLE, ""))


@cache
def _templates(language: str, more: str) -> Templates:
    files = _files(more)
    for tag in (language, language.partition("-")[0]):
        if tag in files:
            return read(files[tag], language)
    raise ConfigError(
        f"no prompts for the language {language}; there are {sorted(files)}: add {language}.yaml beside them, or name "
        f"a folder that has it in {PROMPTS_VARIABLE}"
    )


def read(uri: str, language: str) -> Templates:
    """The templates in a file. Raises ConfigError with every fault of it."""
    name, document = storage.name(uri), storage.read_yaml(uri)
    given = document.get("prompts") if isinstance(document, dict) else None
    if not isinstance(given, dict):
        raise ConfigError(f"{name}: must hold a mapping `prompts`, found none")
    prompts = {task: tuple(choices or ()) for task, choices in given.items()}
    bad = [text for choices in prompts.values() for text in choices if text.count(SLOT) != 1]
    faults = [f"{name}: a prompt must hold {SLOT} once, found {text!r}" for text in bad]
    faults += [f"{name}: must have prompts for {task}, found none" for task in _TASKS if not prompts.get(task)]
    if faults:
        raise ConfigError(faults)
    return Templates(language, prompts)


def _files(more: str) -> dict[str, str]:
    """By language the file of its prompts; those of the folder `more` go before ours."""
    found = {path.stem: str(path) for path in sorted(TEMPLATE_FOLDER.glob("*.yaml"))}
    if more:
        found |= {storage.name(uri).removesuffix(".yaml"): uri for uri in storage.list_files(more, ".yaml")}
    return found


def digest(model_folder: str) -> str:
    """Stands for all that is put around contents: the prompts of every language and a model's chat template."""
    texts = [storage.read_text(uri) for _, uri in sorted(_files(os.environ.get(PROMPTS_VARIABLE, "")).items())]
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = storage.join(model_folder, name)
        texts.append(storage.read_text(path) if storage.exists(path) else "")
    return fingerprint(texts)


def framing_texts(languages: Sequence[str]) -> list[str]:
    """What prompts say around the contents, for training a text tokenizer that spells them in few tokens."""
    pieces: list[str] = []
    for language in languages:
        for choices in templates(language).prompts.values():
            pieces += [piece for choice in choices for piece in choice.split(SLOT) if piece]
    return pieces


@dataclass(frozen=True)
class TurnFrame:
    """What stands around the content of one turn: the ids of its header and of the mark that ends it."""

    header: list[int]
    end: list[int]


class ChatFrame:
    """The token ids that a tokenizer's chat template puts around the contents of turns.

    The template is rendered once with marks in place of the contents and cut at the marks, so contents may be any
    token ids and user text can never break out of its turn.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer
        self._cache: dict[tuple[str, ...], list[TurnFrame]] = {}

    def turns(self, roles: Sequence[str]) -> list[TurnFrame]:
        """The frame of each turn; a turn's end is the one token that follows its content.

        Raises CheckpointError when the template does not keep contents as they are, or writes more than one
        begin-of-text token.
        """
        key = tuple(roles)
        if key not in self._cache:
            self._cache[key] = self._render(key)
        return self._cache[key]

    def _render(self, roles: tuple[str, ...]) -> list[TurnFrame]:
        marks = [f"\x02content {turn}\x03" for turn in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        rest: str = self._tokenizer.apply_chat_template(messages, tokenize=False)
        between = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise CheckpointError("the chat template must keep the content of every turn as it is; it does not")
            between.append(text_tokenizer.encode_markup(self._tokenizer, before))
        between.append(text_tokenizer.encode_markup(self._tokenizer, rest))
        begin = self._tokenizer.bos_token_id
        if begin is not None and begin not in between[0]:
            between[0] = [begin, *between[0]]
        if begin is not None and sum(piece.count(begin) for piece in between) != 1:
            raise CheckpointError("the chat template must write the begin-of-text token exactly once")
        headers = [between[0], *(piece[1:] for piece in between[1:-1])]
        return [TurnFrame(header, after[:1]) for header, after in zip(headers, between[1:], strict=True)]

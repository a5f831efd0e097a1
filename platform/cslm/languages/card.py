"""Language cards: a small file, `<code>.yaml`, by which the owner of a language's data says what a model needs to know.

A card is a config section like those of the jobs, so unknown keys and bad values are told with their dotted paths; of
a folder of cards all faults of all cards are told at once. `schemas/language_card.json` is the same as a JSON Schema,
for editors.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import yaml
from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from cslm import storage
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import language_tags
from cslm.data.corpora import CorpusSection
from cslm.data.filters import FiltersSection
from cslm.data.texts.settings import TAG_PATTERN, FormatName
from cslm.errors import ConfigError
from cslm.languages.scripts import SCRIPTS
from cslm.speech import words

_SUFFIX = ".yaml"


class TextSource(Section):
    """A corpus of translations or dialogues."""

    uri: str = setting(REQUIRED, "file or folder, as a path, s3:// or gs://")
    format: FormatName | Literal["table"] = setting(
        "table", "table: keeps our contract (schemas/) already; else a format of jobs/ingest.py, or auto"
    )
    source_language: str | None = setting(
        None, "source text of pairs, users' turns, where rows do not say it (BCP-47)", pattern=TAG_PATTERN
    )
    target_language: str | None = setting(
        None, "target text of pairs, assistants' turns, where rows do not say it (BCP-47)", pattern=TAG_PATTERN
    )
    both_directions: bool = setting(False, "write each pair a second time with source and target exchanged")

    @model_validator(mode="after")
    def _languages_are_for_formats(self) -> "TextSource":
        given = [name for name in ("source_language", "target_language", "both_directions") if getattr(self, name)]
        if self.format == "table" and given:
            raise ValueError(f"{', '.join(given)} must be left out of a table, whose rows say it; or give format")
        return self


class SourcesSection(Section):
    """Where a language's data lies."""

    speech: tuple[CorpusSection, ...] = setting(
        (), "speech with transcripts, each as in `corpus` of jobs/tokenize.py", min_length=1
    )
    parallel_text: tuple[TextSource, ...] = setting((), "translations from and into the language")
    dialogues: tuple[TextSource, ...] = setting((), "questions and answers in the language and across")

    @field_validator("parallel_text", "dialogues")
    @classmethod
    def _no_formats_of_the_other(cls, sources: tuple[TextSource, ...], info: ValidationInfo) -> tuple[TextSource, ...]:
        others = ("alpaca", "sharegpt", "messages") if info.field_name == "parallel_text" else ("moses", "tmx")
        wrong = [one.format for one in sources if one.format in others]
        if wrong:
            raise ValueError(f"must hold {info.field_name}, found the format {', '.join(wrong)}")
        return sources


class Card(Section):
    """A language as its owner describes it."""

    name: str = setting(REQUIRED, "what the language is called in English", min_length=1)
    code: str = setting(REQUIRED, "BCP-47 tag; the file is named after it")
    script: str = setting(REQUIRED, f"script of its texts (ISO 15924), one of {', '.join(SCRIPTS)}")
    words: Literal["spaced", "segmented"] = setting(
        "spaced", "whether spaces stand between words, or words must be found (Chinese, Japanese, Thai ...)"
    )
    prompts: str | None = setting(
        None, "prompts of the language (a file as in cslm/lm/templates); those that come with the platform by default"
    )
    sources: SourcesSection = group(SourcesSection, "where its data lies")
    filters: FiltersSection = group(FiltersSection, "which utterances are kept out of training")
    targets: dict[str, float] = setting(
        REQUIRED,
        "what the gate asks of a model, by measure of jobs/evaluate.py; error rates at most, all others at least. `*` "
        "stands for anything: answer/*-fr/accuracy",
        min_length=1,
    )
    priority: int = setting(0, "of several languages that are due the one with the greatest number is trained first")

    @field_validator("code")
    @classmethod
    def _tag(cls, code: str) -> str:
        usual = language_tags.canonical(code)
        if usual is None or not language_tags.is_language(code):
            raise ValueError(f"must be a BCP-47 tag of a language, such as fr or zh-Hant, found {code!r}")
        if usual != code:
            raise ValueError(f"must be written {usual}, found {code}")
        return code

    @field_validator("script")
    @classmethod
    def _known_script(cls, script: str) -> str:
        if script not in SCRIPTS:
            raise ValueError(f"must be one of {', '.join(SCRIPTS)}, found {script!r}")
        return script

    @field_validator("targets")
    @classmethod
    def _names_of_measures(cls, targets: dict[str, float]) -> dict[str, float]:
        wrong = [name for name in targets if len(name.split("/")) != 3]
        if wrong:
            raise ValueError(f"must be named task/language/measure, as asr/fr/cer, found {', '.join(wrong)}")
        return targets

    @model_validator(mode="after")
    def _segmentation(self) -> "Card":
        found = words.written(self.code)
        if found != self.words:
            raise ValueError(f"words: {self.code} is {found} here, found {self.words}; error rates go by that")
        return self

    @property
    def taught(self) -> str:
        """Fingerprint of what the card says of the data: the same data teaches the same, whatever is asked of it."""
        return fingerprint(self.model_dump(mode="json", exclude={"priority", "name", "targets"}))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that decides how a language fares."""
        return fingerprint([self.taught, self.targets])


def load_all(folder: str) -> dict[str, Card]:
    """The cards of a folder by code, the most urgent first. Raises ConfigError with every fault of every card."""
    found: list[Card] = []
    faults: list[str] = []
    files = [file for file in storage.list_folder(folder)[1] if file.uri.endswith(_SUFFIX)]
    for file in files:
        try:
            document = storage.read_yaml(file.uri)
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            faults.append(f"{storage.name(file.uri)}: must be YAML: {error}")
            continue
        card = _read(document, storage.name(file.uri), faults)
        if card is not None:
            found.append(card)
    if not files:
        faults.append(f"languages: must be a folder of cards <code>{_SUFFIX}, found none in {folder}")
    if faults:
        raise ConfigError(faults)
    return {card.code: card for card in sorted(found, key=lambda card: (-card.priority, card.code))}


def schema() -> dict[str, Any]:
    """The card as a JSON Schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Card.model_json_schema()}


def _read(document: Any, name: str, faults: list[str]) -> Card | None:
    if not isinstance(document, dict):
        faults.append(f"{name}: must hold a mapping, found {type(document).__name__}")
        return None
    try:
        card = Card.model_validate({"sources": {}, **document})
    except ValidationError as error:
        faults += [f"{name}: {told}" for told in _told(error)]
        return None
    if name != f"{card.code}{_SUFFIX}":
        faults.append(f"{name}: code: a card must be named after its code, {card.code}{_SUFFIX}")
        return None
    return card


def _told(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; known are {', '.join(Card.model_fields)}" if "." not in path else "unknown key"
        elif item["type"] == "missing":
            message = "required, not given"
        elif item["type"] != "value_error":
            message = f"{message[:1].lower()}{message[1:]}, found {item['input']!r}"
        yield f"{path}: {message}" if path else message


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))

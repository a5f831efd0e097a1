"""What retraining remembers: what was tried of each language and how it ended, and what made each champion.

Two kinds of JSON files in storage, each written whole or not at all: `state.json`, and a record beside every model that
was promoted. The registry says which of these models is the champion; nothing here repeats that.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cslm import storage

Ending = Literal["running", "promoted", "refused", "no-go", "failed", "over budget"]
# Under this name an attempt is remembered that trains all languages together.
TOGETHER = "*"
_STATE = "state.json"


@dataclass(frozen=True)
class Attempt:
    """One try of a language or of all together: what decides it (`key`), in which run, and how it ended."""

    key: str
    run: str
    ending: Ending
    reasons: list[str] = field(default_factory=list)
    at_s: float = 0.0


@dataclass(frozen=True)
class Known:
    """A language that a champion has: the card and data that taught it, and where the tables of these lie."""

    card: str
    drop: str
    num_bytes: int
    tables: dict[str, list[str]]


@dataclass(frozen=True)
class Champion:
    """What made a model that was promoted."""

    run: str
    model: str
    tokenizer: str
    recipe: str
    languages: dict[str, Known]
    # By the settings `data.*` of the jobs the tables that it was trained on.
    tables: dict[str, str | None]
    decoder: str | None = None

    def save(self, uri: str) -> None:
        """Write the record."""
        storage.write_json(uri, asdict(self))

    @classmethod
    def load(cls, uri: str) -> "Champion":
        """Read a record."""
        document = storage.read_json(uri)
        known = {code: Known(**one) for code, one in document.pop("languages").items()}
        return cls(**document, languages=known)


def attempts(home: str) -> dict[str, Attempt]:
    """The last attempt of each language, and of all together."""
    path = storage.join(home, _STATE)
    if not storage.exists(path):
        return {}
    return {name: Attempt(**one) for name, one in storage.read_json(path)["attempts"].items()}


def remember(home: str, name: str, attempt: Attempt) -> None:
    """Put the last attempt of a language in its place."""
    found: Mapping[str, Any] = attempts(home)
    known = {one: asdict(other) for one, other in {**found, name: attempt}.items()}
    known[name]["at_s"] = round(time.time(), 1)
    storage.write_json(storage.join(home, _STATE), {"version": 1, "attempts": known})

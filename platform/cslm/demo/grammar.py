"""What the sentences of the demo corpus mean, before any language words them.

A statement is a `Meaning`: a kind and one concept for each of its slots, drawn from small inventories. A language is
a module in `languages/` that words every kind of statement and every kind of fact, so that the same meaning is a
translation pair by construction, and a language is added by adding one file. Wordings are functions, not templates:
gender, elision and measure words are a line of Python where they would be a mini-language in data.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from cslm.demo import languages
from cslm.errors import ConfigError

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIMES = ("morning", "afternoon", "night", "every day", "today")

# Concepts are named by English words; a language is free to word them as it likes.
INVENTORIES: Mapping[str, tuple[str, ...]] = {
    "person": (
        *("teacher", "doctor", "farmer", "singer", "student"),
        *("driver", "cook", "neighbour", "soldier", "painter"),
    ),
    "trait": ("old", "young", "tall", "happy"),
    "animal": ("cat", "dog", "horse", "bird", "cow", "rabbit", "sheep", "duck"),
    "object": ("book", "cup", "hat", "shirt", "box", "bag", "chair", "ball", "bicycle", "umbrella"),
    "food": ("bread", "rice", "fish", "meat", "cheese", "eggs"),
    "colour": COLOURS,
    "size": ("big", "small"),
    "number": tuple(str(number) for number in range(2, 21)),
    "hour": tuple(str(hour) for hour in range(1, 13)),
    "place": ("garden", "park", "forest", "kitchen", "school", "market", "station", "library"),
    "outdoors": ("garden", "park", "forest", "market", "station"),
    "furniture": ("table", "bed", "car", "sofa"),
    "relation": ("on", "under", "near", "behind"),
    "time": TIMES,
    "day": DAYS,
    "day or time": (*DAYS, *TIMES),
    "weather": ("hot", "cold", "rainy", "snowy", "windy", "sunny"),
    "action": ("sleep", "run", "play", "wait", "walk", "eat"),
    "handling": ("buy", "sell", "want", "carry", "paint"),
    "meal": ("eat", "prepare"),
    "handover": ("give", "show"),
}

# The slots of every kind of statement, in the order in which a language's function takes them.
STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "animal_does": ("colour", "animal", "action", "place", "time"),
    "person_handles": ("trait", "person", "handling", "colour", "object", "time"),
    "person_eats": ("person", "meal", "food", "place", "time"),
    "person_goes": ("person", "place", "day", "hour"),
    "person_gives": ("person", "handover", "animal", "colour", "object"),
    "person_has": ("trait", "person", "number", "colour", "object"),
    "there_are": ("number", "colour", "animal", "place"),
    "thing_is": ("size", "colour", "object", "relation", "furniture"),
    "weather_is": ("weather", "outdoors", "day or time"),
    # Short ones, of which a small model hears many in the time of one long one. New kinds stand at the end: the splits
    # of a kind follow from its place.
    "animal_at": ("colour", "animal", "place"),
    "things": ("number", "colour", "object"),
    "person_acts": ("person", "action", "day or time"),
    "person_owns": ("person", "number", "object"),
}


@dataclass(frozen=True)
class Meaning:
    """What a statement says in every language."""

    kind: str
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Exchange:
    """The ways to ask for one fact and to answer. Entry i of each is the same wording in every language."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """How one language words the demo corpus, and which synthetic voice speaks it."""

    code: str
    name: str
    # An espeak-ng voice by name, or by its file below `lang/`, which the library finds without reading all others.
    voice: str
    statements: Mapping[str, Callable[..., str]]
    exchanges: Mapping[str, Callable[..., Exchange]]
    # Speaking rate relative to English, where the synthesiser's own pace is too slow or quick.
    rate: float = 1.0
    # Spellings that the synthesiser reads wrongly -> ones of the same length that sound as they should.
    respelling: Mapping[str, str] | None = None

    def state(self, meaning: Meaning) -> str:
        """The sentence that says `meaning`."""
        return as_sentence(self.statements[meaning.kind](*meaning.slots))

    def exchange(self, kind: str, slots: tuple[str, ...]) -> Exchange:
        """The questions for a fact and the answers to them."""
        raw = self.exchanges[kind](*slots)
        return Exchange(tuple(map(as_sentence, raw.questions)), tuple(map(as_sentence, raw.answers)))

    def spoken(self, text: str) -> str:
        """`text` as the synthesiser is to be given it; positions stay."""
        return "".join((self.respelling or {}).get(letter, letter) for letter in text)


def num_meanings(kind: str) -> int:
    """How many different statements of a kind there are."""
    return math.prod(len(INVENTORIES[slot]) for slot in STATEMENTS[kind])


def meaning(kind: str, index: int) -> Meaning:
    """The `index`-th statement of a kind, 0 <= index < num_meanings(kind)."""
    slots = []
    for slot in STATEMENTS[kind]:
        index, choice = divmod(index, len(INVENTORIES[slot]))
        slots.append(INVENTORIES[slot][choice])
    return Meaning(kind, tuple(slots))


def largest_choices(kind: str) -> npt.NDArray[np.int64]:
    """For every meaning of a kind, by index, the largest place that any of its concepts has in its inventory."""
    index = np.arange(num_meanings(kind))
    largest = np.zeros_like(index)
    for slot in STATEMENTS[kind]:
        index, choice = np.divmod(index, len(INVENTORIES[slot]))
        largest = np.maximum(largest, choice)
    return largest


def as_sentence(text: str) -> str:
    """Capitalise the first letter, past an opening mark; scripts without case stay as they are."""
    start = 1 if text[:1] in "¿¡" else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


@cache
def available_languages() -> tuple[str, ...]:
    """The codes of all languages that have a module."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(languages.__path__)))


@cache
def load_language(code: str) -> Language:
    """The language of a code. Raises ConfigError when it has no module."""
    if code not in available_languages():
        raise ConfigError(f"language must be one of {', '.join(available_languages())}, found {code}")
    language: Language = importlib.import_module(f"cslm.demo.languages.{code}").LANGUAGE
    return language

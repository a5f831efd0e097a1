"""What readers give: a pair, a dialogue, or a fault for a row that could not be read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(slots=True)
class Fault:
    """A row that could not be read: the reason for `rejects`, and what a person should know to mend it."""

    reason: str
    message: str
    id: Any = None


@dataclass(slots=True)
class Pair:
    """Two texts that say the same, as the corpus has them; what the row does not name is None."""

    source: Any
    target: Any
    id: Any = None
    source_language: Any = None
    target_language: Any = None
    split: Any = None
    source_audio: Any = None
    target_audio: Any = None


@dataclass(slots=True)
class Turn:
    """One turn of a dialogue: its role in the corpus' own word, and the parts that its text is joined from.

    `audio`: id of the utterance that speaks it. `language`: its own, where the turn names one.
    """

    role: Any
    parts: list[Any]
    audio: Any = None
    language: Any = None


@dataclass(slots=True)
class Dialogue:
    """An exchange, as the corpus has it; what the row does not name is None."""

    turns: list[Turn]
    id: Any = None
    language: Any = None
    split: Any = None
    kind: Any = None


Record = Pair | Dialogue | Fault
Records = Iterator[Record]


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing; tables that went through pandas hold NaN there."""
    return value is None or value == "" or value != value


def unreadable(message: str, id: Any = None) -> Fault:
    """The fault of a row whose form is not that of its format."""
    return Fault("unreadable_row", message, id)

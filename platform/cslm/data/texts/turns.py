"""Objects of one turn, `{from, value}` or `{role, content}`, -> turns; what both chat formats share."""

from collections.abc import Mapping, Sequence
from typing import Any

from cslm.data.texts.records import Dialogue, Fault, Record, Row, Turn, unreadable

_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")
# Beside the turns themselves.
COLUMNS = ("id", "system", "language", "split", "kind")


def dialogue(row: Row, key: str) -> Record:
    """The dialogue of a row whose turns lie in column `key`."""
    turns = row.get(key)
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        return unreadable(f"{key} must be a list of turns, found {turns!r:.40}", row.get("id"))
    given = row.get("system")
    made = [Turn("system", [given])] if isinstance(given, str) and given else []
    for number, value in enumerate(turns, 1):
        turn = _turn(value, f"{key}[{number}]")
        if isinstance(turn, Fault):
            turn.id = row.get("id")
            return turn
        made.append(turn)
    return described(row, made)


def described(row: Row, turns: list[Turn]) -> Dialogue:
    """A dialogue with what its row says beside the turns."""
    return Dialogue(turns, row.get("id"), row.get("language"), row.get("split"), row.get("kind"))


def _turn(value: Any, place: str) -> Turn | Fault:
    if not isinstance(value, Mapping):
        return unreadable(f"{place} must be an object, found {value!r:.40}")
    role = next((value[key] for key in _ROLE_KEYS if key in value), None)
    text = next((value[key] for key in _TEXT_KEYS if key in value), None)
    if role is None:
        return unreadable(f"{place} must say who speaks, in role or from, found {list(value)}")
    parts: list[Any] = []
    for part in text if isinstance(text, list) else [text]:
        if isinstance(part, Mapping):
            if part.get("type", "text") != "text" or "text" not in part:
                what = f"a part of type {part['type']!r}" if "type" in part else f"an object with {list(part)}"
                return Fault("bad_content", f"{place} must hold text only, found {what}")
            part = part["text"]
        if part is not None and not isinstance(part, str | int | float):
            return Fault("bad_content", f"{place} must hold text, found {type(part).__name__}")
        parts.append(part)
    return Turn(role, parts, value.get("audio"), value.get("language"))

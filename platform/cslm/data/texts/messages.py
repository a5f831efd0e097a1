"""Chat messages: `messages: [{role: user, content: ...}, ...]`, where a content may be a list of text parts."""

from collections.abc import Iterator

from cslm.data.texts import turns
from cslm.data.texts.records import Fault, Record, Row

KEY = "messages"
COLUMNS = (KEY, *turns.COLUMNS)


def read(rows: Iterator[Row | Fault]) -> Iterator[Record]:
    """Dialogues in the order of the rows."""
    for row in rows:
        yield row if isinstance(row, Fault) else turns.dialogue(row, KEY)

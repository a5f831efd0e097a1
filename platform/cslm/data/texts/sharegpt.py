"""ShareGPT: `conversations: [{from: human, value: ...}, {from: gpt, value: ...}]`, after an optional `system`."""

from collections.abc import Iterator

from cslm.data.texts import turns
from cslm.data.texts.records import Fault, Record, Row

KEY = "conversations"
COLUMNS = (KEY, *turns.COLUMNS)


def read(rows: Iterator[Row | Fault]) -> Iterator[Record]:
    """Dialogues in the order of the rows."""
    for row in rows:
        yield row if isinstance(row, Fault) else turns.dialogue(row, KEY)

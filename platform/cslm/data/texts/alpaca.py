"""Alpaca: `instruction`, `input` and `output`, with the earlier turns in `history` and a `system` where there are."""

from collections.abc import Iterator, Sequence

from cslm.data.texts import turns
from cslm.data.texts.records import Fault, Record, Row, Turn, is_blank, unreadable

REQUIRED = ("instruction", "output")
COLUMNS = (*REQUIRED, "input", "history", *turns.COLUMNS)


def read(rows: Iterator[Row | Fault]) -> Iterator[Record]:
    """Dialogues in the order of the rows."""
    for row in rows:
        yield row if isinstance(row, Fault) else _dialogue(row)


def _dialogue(row: Row) -> Record:
    if not all(key in row for key in REQUIRED):
        return unreadable(f"a row must have {' and '.join(REQUIRED)}, found {list(row)}", row.get("id"))
    made = [] if is_blank(row.get("system")) else [Turn("system", [row["system"]])]
    for exchange in row.get("history") or []:
        if not isinstance(exchange, Sequence) or isinstance(exchange, str) or len(exchange) != 2:
            return unreadable(f"history must hold pairs of question and answer, found {exchange!r:.40}", row.get("id"))
        made += [Turn("user", [exchange[0]]), Turn("assistant", [exchange[1]])]
    made += [Turn("user", [row["instruction"], row.get("input")]), Turn("assistant", [row["output"]])]
    return turns.described(row, made)

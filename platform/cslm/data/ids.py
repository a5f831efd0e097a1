"""Ids that would come twice: those of two rows, and that of a row beside one that splitting gives to an utterance.

A recording `a` without a transcript may be split into utterances `a#0`, `a#1` ..., which is not known before it is
decoded; a row of that name is refused then, or the recording where that comes later.
"""

import re
from collections.abc import Sequence
from typing import Any

from cslm.data.seen import Seen
from cslm.data.text_normal import normalise

_PART = re.compile(r"(.+)#(?:0|[1-9][0-9]*)", re.DOTALL)

Row = dict[str, Any]


def part_id(source: str, number: int) -> str:
    """The id of an utterance that was cut from a longer recording."""
    return f"{source}#{number}"


def may_be_split(row: Row) -> bool:
    """Whether a row leaves it to the job where its utterances are: it has no transcript and no span."""
    text = (row["text"] or "").strip()
    if text and text.isprintable():  # nearly all that have one
        return False
    return row["start_s"] is None and row["end_s"] is None and not normalise(text)[0]


class Ids:
    """The ids of the rows so far, in 16 bytes a row, 32 where it has no transcript."""

    def __init__(self) -> None:
        self._all, self._split, self._parted = Seen(), Seen(), Seen()

    def faults(self, rows: Sequence[Row]) -> list[str | None]:
        """What is wrong with the id of each of some more rows, None where nothing is."""
        ids = [row["id"] for row in rows]
        repeated = self._all.add(ids)
        sources = [match[1] if (match := _PART.fullmatch(one)) else "" for one in ids]
        split_before, parted_before = self._known(self._split, sources), self._known(self._parted, ids)
        split: set[str] = set()
        parted: set[str] = set()
        found: list[str | None] = []
        for number, (row, one, source) in enumerate(zip(rows, ids, sources, strict=True)):
            may_split = may_be_split(row)
            if repeated[number]:
                found.append(f"{one} again")
                continue
            if source and (split_before[number] or source in split):
                found.append(f"{one}, which is kept for an utterance of {source} should that be split,")
                continue
            if may_split and (parted_before[number] or one in parted):
                found.append(f"{one}, whose utterances would get ids of rows before, such as {one}#0, if it is split,")
                continue
            found.append(None)
            if may_split:
                split.add(one)
            if source:
                parted.add(source)
        self._split.add(list(split))
        self._parted.add(list(parted))
        return found

    @staticmethod
    def _known(seen: Seen, texts: Sequence[str]) -> list[bool]:
        """Whether each text was seen, asked only for those that are one."""
        asked = [text for text in texts if text]
        answers = iter(seen.known(asked))
        return [bool(text) and next(answers) for text in texts]

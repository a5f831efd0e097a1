"""Records of a corpus -> rows of its table and of `rejects`, with every row counted; a stream of chunks."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from cslm.data.seen import Seen
from cslm.data.texts.cleaning import Clean, Cleaner, reverse
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, Record, Row, is_blank
from cslm.data.texts.settings import FiltersSection, LanguagesSection, SplitsSection

_CHUNK_ROWS = 4096
_NUM_SAMPLES = 5
_TWICE = {"parallel_text": ("duplicate_pair", "pair"), "dialogues": ("duplicate_dialogue", "dialogue")}


class Collector:
    """Takes records in order and hands out rows; its counts tell of all records that it was given."""

    def __init__(
        self,
        table: str,
        name: str,
        languages: LanguagesSection,
        splits: SplitsSection,
        filters: FiltersSection,
    ) -> None:
        self._table, self._languages, self._filters = table, languages, filters
        self._cleaner = Cleaner(name, languages, splits, filters)
        self._ids, self._keys = Seen(), Seen()
        self.num_rows = 0
        self._accepted = self._written = 0
        self._changes: Counter[str] = Counter()
        self._mended = {"dropped_turns": 0, "joined_systems": 0}
        self._reasons: Counter[str] = Counter()
        self._places: dict[str, dict[str, Counter[str]]] = {}
        self.examples: dict[str, str] = {}
        self.samples: list[Row] = []
        # Which rows are shown is a matter of their number only.
        self._random = random.Random(0)

    def chunks(self, records: Iterable[tuple[TextFile, Record]]) -> Iterator[tuple[list[Row], list[Row]]]:
        """Rows of the table and of rejects, some thousand records at a time."""
        stream = iter(records)
        while chunk := list(islice(stream, _CHUNK_ROWS)):
            yield self._chunk(chunk)

    def counts(self) -> dict[str, Any]:
        """What became of the records so far. Accepted and rejected rows are all rows."""
        rejected = sum(self._reasons.values())
        assert self._accepted + rejected == self.num_rows, (self._accepted, self._reasons, self.num_rows)
        mended = self._mended if self._table == "dialogues" else {}
        return {
            "rows": {
                "read": self.num_rows,
                "accepted": self._accepted,
                "rejected": rejected,
                "reasons": dict(sorted(self._reasons.items())),
            },
            "written": self._written,
            "by_language": {
                language: {split: dict(count) for split, count in sorted(splits.items())}
                for language, splits in sorted(self._places.items())
            },
            "changes": dict(sorted(self._changes.items())),
            **mended,
        }

    def _chunk(self, chunk: list[tuple[TextFile, Record]]) -> tuple[list[Row], list[Row]]:
        rows: list[Row] = []
        rejects: list[Row] = []
        taken: list[tuple[int, TextFile, Clean]] = []
        first = self.num_rows + 1
        self.num_rows += len(chunk)
        for number, (file, record) in enumerate(chunk, first):
            clean = self._cleaner.clean(number, record)
            if isinstance(clean, Fault):
                rejects.append(self._reject(number, file, clean))
            else:
                taken.append((number, file, clean))
        twice = self._ids.add([clean.row["id"] for _, _, clean in taken])
        unique = []
        for (number, file, clean), repeated in zip(taken, twice, strict=True):
            if repeated:
                message = f"ids must be unique, found {clean.row['id']} again in row {number}; rename or drop the row"
                rejects.append(self._reject(number, file, Fault("duplicate_id", message, clean.row["id"])))
            else:
                unique.append((number, file, clean))
        drop = self._filters.drop_duplicates
        twice = self._keys.add([clean.key for _, _, clean in unique]) if drop else [False] * len(unique)
        for (number, file, clean), repeated in zip(unique, twice, strict=True):
            if repeated:
                reason, what = _TWICE[self._table]
                fault = Fault(reason, f"a {what} must come once, found the same again", clean.row["id"])
                rejects.append(self._reject(number, file, fault))
            else:
                rows += self._accept(clean)
        return rows, rejects

    def _accept(self, clean: Clean) -> list[Row]:
        row = clean.row
        self._accepted += 1
        self._changes.update(clean.changes)
        self._mended["dropped_turns"] += clean.dropped_turns
        self._mended["joined_systems"] += clean.joined_systems
        if len(self.samples) < _NUM_SAMPLES:
            self.samples.append(row)
        elif (place := self._random.randrange(self._accepted)) < _NUM_SAMPLES:
            self.samples[place] = row
        both = self._table == "parallel_text" and self._languages.both_directions
        made = [row, reverse(row)] if both else [row]
        for one in made:
            if self._table == "parallel_text":
                languages, num_chars = (
                    (one["source_language"], one["target_language"]),
                    len(one["source"] + one["target"]),
                )
            else:
                languages = one["turns"][0]["language"], one["turns"][-1]["language"]
                num_chars = sum(len(turn["text"]) for turn in one["turns"])
            counts = self._places.setdefault("-".join(languages), {}).setdefault(one["split"], Counter())
            counts["rows"] += 1
            counts["characters"] += num_chars
        self._written += len(made)
        return made

    def _reject(self, number: int, file: TextFile, fault: Fault) -> Row:
        self._reasons[fault.reason] += 1
        name = f"#{number}" if is_blank(fault.id) else _writable(str(fault.id))
        message = _writable(f"row {number}: {fault.message}")
        self.examples.setdefault(fault.reason, message)
        return {"id": name, "source": file.uri, "stage": "text", "error": fault.reason, "message": message}


def _writable(text: str) -> str:
    """Half surrogate pairs, which no encoding can write, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()

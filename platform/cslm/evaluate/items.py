"""What a model is asked: items made from held-out tables, evenly over each language or direction.

An item is plain values, as it goes to workers: what to ask (`task`, `text`, `units`, `history`), the language that the
output should be in, and what it is compared with. Whatever is not known stays out: no audio, no item of that audio.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.config import Section, setting
from cslm.data import sources
from cslm.lm.examples import groups_of
from cslm.lm.vocabulary import Vocabulary

Row = dict[str, Any]


class AmountSection(Section):
    """How many items there are at most."""

    max_utterances: int = setting(200, "utterances to recognise of each language, at most", ge=0)
    max_spoken: int = setting(100, "texts to speak of each language, at most", ge=0)
    max_translations: int = setting(100, "texts to translate of each pair of languages, at most", ge=0)
    max_speech_translations: int = setting(
        100, "utterances to translate into text of each pair of languages, at most", ge=0
    )
    max_questions: int = setting(100, "questions to answer of each pair of languages, at most", ge=0)


@dataclass(frozen=True)
class Item:
    """One thing that a model is asked.

    `units` is the speech that it hears. `earlier` are turns before the last question, each with role, language, text
    and, where it was spoken, units.
    """

    id: str
    task: str
    language: str
    answer_language: str
    reference: str
    text: str | None = None
    units: list[int] | None = None
    earlier: tuple[Row, ...] = ()
    kind: str | None = None
    question: str | None = None
    accepted: tuple[str, ...] | None = None
    question_audio: str | None = None
    reference_audio: str | None = None
    # The recording of the reference, where the recogniser's own errors on it are to be known: address, start, end.
    recording: tuple[str, float | None, float | None] | None = None
    is_sample: bool = False

    @property
    def kind_of_task(self) -> str:
        """The task without its language or direction."""
        return self.task.partition("/")[0]

    def told(self) -> Row:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Item":
        """The item of what `told` gave."""
        lists = {name: told[name] for name in ("earlier", "accepted", "recording")}
        return cls(**{**told, **{name: None if value is None else tuple(value) for name, value in lists.items()}})


def utterances(units: str, split: str) -> pa.Table:
    """The utterances of a split that have a transcript, in order of language and id."""
    columns = ["id", "language", "text", "units", "tokenizer", "source", "start_s", "end_s"]
    table = storage.read_table(sources.units_folder(units), columns, pc.field("split") == split)
    table = table.filter(pc.greater(pc.utf8_length(pc.fill_null(table.column("text"), "")), 0))
    return table.sort_by([("language", "ascending"), ("id", "ascending")])


def of_utterances(table: pa.Table, amounts: AmountSection) -> list[Item]:
    """Utterances to recognise, and texts to speak."""
    found = []
    for language in pc.unique(table.column("language")).to_pylist():
        rows = table.filter(pc.equal(table.column("language"), language))
        for row in _evenly(rows, amounts.max_utterances).to_pylist():
            place = {"id": row["id"], "language": language, "answer_language": language}
            found.append(
                Item(
                    **place, task=f"asr/{language}", reference=row["text"], units=row["units"], question_audio=row["id"]
                )
            )
        for row in _evenly(rows, amounts.max_spoken).to_pylist():
            place = {"id": row["id"], "language": language, "answer_language": language}
            found.append(
                Item(
                    **place,
                    task=f"tts/{language}",
                    reference=row["text"],
                    text=row["text"],
                    question=row["text"],
                    reference_audio=row["id"],
                    recording=(row["source"], row["start_s"], row["end_s"]),
                )
            )
    return found


def of_translations(parallel_text: str, units: str | None, split: str, amounts: AmountSection) -> list[Item]:
    """Texts to translate and, where the source is spoken, speech to translate into text."""
    table = contracts.load("parallel_text").check(storage.read_table(parallel_text), parallel_text)
    table = table.filter(pc.equal(table.column("split"), split)).sort_by("id")
    chosen: list[tuple[str, Row]] = []
    for direction, rows in _by_direction(table.to_pylist()).items():
        chosen += [(f"mt/{direction}", row) for row in _some(rows, amounts.max_translations)]
        spoken = [row for row in rows if row["source_audio"] is not None]
        if units is not None:
            chosen += [(f"st/{direction}", row) for row in _some(spoken, amounts.max_speech_translations)]
    names = sorted({row["source_audio"] for task, row in chosen if task.startswith("st/")})
    known = sources.units_of(units, names) if units is not None and names else {}
    found = []
    for task, row in chosen:
        item = Item(
            row["id"],
            task,
            row["source_language"],
            row["target_language"],
            row["target"],
            question=row["source"],
            reference_audio=row["target_audio"],
        )
        if task.startswith("mt/"):
            found.append(_with(item, text=row["source"]))
        elif row["source_audio"] in known:
            found.append(_with(item, units=known[row["source_audio"]], question_audio=row["source_audio"]))
    return found


def of_dialogues(dialogues: str, units: str, split: str, amounts: AmountSection) -> list[Item]:
    """Spoken questions to answer. What was said before the last question is part of what is asked."""
    table = contracts.load("dialogues").check(storage.read_table(dialogues), dialogues)
    table = table.filter(pc.equal(table.column("split"), split))
    by_task: dict[str, list[Row]] = {}
    for row in table.sort_by("id").to_pylist():
        if len(row["turns"]) > 1 and row["turns"][-2]["audio"] is not None:
            by_task.setdefault(groups_of("dialogues", row)[0], []).append(row)
    chosen = [(task, row) for task in sorted(by_task) for row in _some(by_task[task], amounts.max_questions)]
    known = sources.units_of(units, sorted({name for _, row in chosen for name in _heard(row)}))
    found = []
    for task, row in chosen:
        if not set(_heard(row)) <= known.keys():
            continue
        *earlier, asked, answered = row["turns"]
        found.append(
            Item(
                row["id"],
                task,
                asked["language"],
                answered["language"],
                answered["text"],
                units=known[asked["audio"]],
                earlier=tuple({**turn, "units": known.get(turn["audio"])} for turn in earlier),
                kind=row["kind"],
                question=asked["text"],
                accepted=None if row["accepted"] is None else tuple(row["accepted"]),
                question_audio=asked["audio"],
                reference_audio=answered["audio"],
            )
        )
    return found


def with_samples(items: Sequence[Item], num_samples: int) -> list[Item]:
    """The same items, the first few of each task marked as those that reports show."""
    seen: dict[str, int] = {}
    found = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + 1
        found.append(_with(item, is_sample=seen[item.task] <= num_samples))
    return found


def require_same_units(table: pa.Table, layout: Vocabulary, where: str) -> None:
    """Raise CheckpointError when the units that are heard are another tokenizer's than the model's."""
    layout.require_units_of(sorted(pc.unique(table.column("tokenizer")).to_pylist()), where)


def _heard(row: Row) -> list[str]:
    """Utterances of all turns before the answer."""
    return [turn["audio"] for turn in row["turns"][:-1] if turn["audio"] is not None]


def _by_direction(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row['source_language']}-{row['target_language']}", []).append(row)
    return dict(sorted(found.items()))


def _with(item: Item, **changes: Any) -> Item:
    return Item(**{**item.__dict__, **changes})


def _some(rows: Sequence[Row], wanted: int) -> list[Row]:
    return [rows[place] for place in _places(len(rows), wanted)]


def _evenly(table: pa.Table, wanted: int) -> pa.Table:
    return table.take(pa.array(_places(table.num_rows, wanted), pa.int64()))


def _places(total: int, wanted: int) -> list[int]:
    return [place * total // wanted for place in range(wanted)] if wanted < total else list(range(total))

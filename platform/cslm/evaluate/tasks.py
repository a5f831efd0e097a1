"""What is evaluated: items made from held-out tables, a model asked in batches, and each output scored.

Recognition items are spoken utterances, answer items spoken questions whose accepted answers the table lists.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cslm import contracts, storage
from cslm.data import sources
from cslm.evaluate.metrics import edit_counts, is_right
from cslm.lm import chain, generate, text_tokenizer, vocabulary
from cslm.lm import model as lm_model
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken
from cslm.lm.examples import ExampleBuilder, groups_of

# One item: `table` (units or dialogues), the table's `row`, and for dialogues the `units` of its spoken turns.
Item = dict[str, Any]


def recognition_items(units: str, split: str, max_per_language: int) -> list[Item]:
    """Spoken utterances with transcripts, at most so many a language, taken evenly over the table in order of id."""
    columns = ["id", "language", "text", "units", "tokenizer"]
    table = storage.read_table(sources.units_folder(units), columns, pc.field("split") == split)
    items = []
    for language in sorted(pc.unique(table.column("language")).to_pylist()):
        rows = table.filter(pc.equal(table.column("language"), language)).sort_by("id")
        rows = rows.filter(pc.greater(pc.utf8_length(pc.fill_null(rows.column("text"), "")), 0))
        items += [{"table": "units", "row": row, "units": {}} for row in _evenly(rows, max_per_language).to_pylist()]
    return items


def answer_items(dialogues: str, units: str, split: str, max_per_direction: int) -> list[Item]:
    """Dialogues with a spoken question and a checkable answer, at most so many for each pair of languages."""
    table = contracts.load("dialogues").check(storage.read_table(dialogues), dialogues)
    table = table.filter(pc.and_(pc.equal(table.column("split"), split), pc.is_valid(table.column("accepted"))))
    by_direction: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.sort_by("id").to_pylist():
        asked, answered = row["turns"][0], row["turns"][-1]
        if asked["audio"] is not None:
            by_direction.setdefault((asked["language"], answered["language"]), []).append(row)
    chosen = []
    for direction in sorted(by_direction):
        rows = by_direction[direction]
        chosen += [rows[place] for place in _places(len(rows), max_per_direction)]
    spoken = {turn["audio"] for row in chosen for turn in row["turns"] if turn["audio"] is not None}
    known = sources.units_of(units, sorted(spoken))
    items = []
    for row in chosen:
        needed = {turn["audio"] for turn in row["turns"] if turn["audio"] is not None}
        if needed <= known.keys():
            items.append({"table": "dialogues", "row": row, "units": {name: known[name] for name in needed}})
    return items


class Examiner:
    """A model on a device, asked item by item: batch of items in, `predictions` rows out."""

    def __init__(self, model_folder: str, device: str, max_new_tokens: int, num_threads: int) -> None:
        if device == "cpu":
            torch.set_num_threads(num_threads)
        with storage.local_folder(model_folder) as folder:
            self._tokenizer = text_tokenizer.load(folder)
            self._layout = vocabulary.load(folder)
            self._model = lm_model.load(folder).to(torch.device(device)).eval()
        # Of an exchange before the question nothing is aligned here: its answers are given as the whole chain.
        self._builder = ExampleBuilder(self._tokenizer, self._layout, ChainSection(form="full"))
        self._max_new_tokens = max_new_tokens

    def __call__(self, items: Sequence[Item]) -> pa.Table:
        """Ask the model for every item and score what it gives."""
        groups = [_group(item) for item in items]
        outputs = generate.greedy(
            self._model,
            [self._prompt(item, group) for item, group in zip(items, groups, strict=True)],
            stop_ids=[int(self._tokenizer.eos_token_id)],
            pad_id=int(self._tokenizer.pad_token_id or 0),
            max_new_tokens=self._max_new_tokens,
        )
        rows = [self._score(item, group, output) for item, group, output in zip(items, groups, outputs, strict=True)]
        return contracts.load("predictions").table(rows)

    def _prompt(self, item: Item, group: str) -> list[int]:
        spoken = {name: Spoken(units) for name, units in item["units"].items()}
        return self._builder.prompt(group, item["row"], spoken)

    def _score(self, item: Item, task: str, output: Sequence[int]) -> dict[str, Any]:
        row = item["row"]
        if item["table"] == "units":
            text = self._text(output)
            return {"id": row["id"], "task": task, "reference": row["text"], "output": text} | _counts(
                row["text"], text
            )
        heard, answer, _ = chain.split(output, self._layout)
        asked, reference = row["turns"][0]["text"], row["turns"][-1]["text"]
        text, heard_text = self._text(answer), self._text(heard)
        prediction = {
            "id": row["id"],
            "task": task,
            "kind": row["kind"],
            "question": asked,
            "heard": heard_text,
            "reference": reference,
            "output": text,
            "right": is_right(text, row["accepted"]),
        }
        return prediction | _counts(asked, heard_text)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _group(item: Item) -> str:
    """The task and direction that an item is counted under; of an utterance its recognition."""
    return groups_of(item["table"], item["row"])[0]


def _counts(reference: str, hypothesis: str) -> dict[str, int]:
    counts = edit_counts(reference, hypothesis)
    return {
        "characters": counts.characters,
        "character_errors": counts.character_errors,
        "words": counts.words,
        "word_errors": counts.word_errors,
    }


def _places(total: int, wanted: int) -> list[int]:
    return [place * total // wanted for place in range(wanted)] if wanted < total else list(range(total))


def _evenly(table: pa.Table, wanted: int) -> pa.Table:
    return table.take(_places(table.num_rows, wanted))


def require_same_units(items: Sequence[Item], layout: vocabulary.Vocabulary, where: str) -> None:
    """Raise CheckpointError when the units to recognise are another tokenizer's than the model's."""
    made_by: set[str] = {item["row"]["tokenizer"] for item in items if item["table"] == "units"}
    layout.require_units_of(sorted(made_by), where)


def metrics_of(predictions: pa.Table) -> tuple[dict[str, float], dict[str, int]]:
    """Predictions -> metrics by name (`asr/en/cer`, `answer/en-zh/accuracy` ...) and the items of each task."""
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in predictions.to_pylist():
        grouped.setdefault(row["task"], []).append(row)
    for task, rows in sorted(grouped.items()):
        counts[task] = len(rows)
        characters, words = sum(row["characters"] for row in rows), sum(row["words"] for row in rows)
        cer = sum(row["character_errors"] for row in rows) / max(characters, 1)
        wer = sum(row["word_errors"] for row in rows) / max(words, 1)
        if task.startswith("asr/"):
            metrics[f"{task}/cer"], metrics[f"{task}/wer"] = cer, wer
        else:
            metrics[f"{task}/accuracy"] = sum(bool(row["right"]) for row in rows) / len(rows)
            metrics[f"{task}/question_cer"] = cer
    return metrics, counts

"""From the evaluations of changed recipes to the paper's table: what each change did, and whether the paper saw that.

Figures of several languages or directions are pooled over their items, so that a row has few numbers and each is of
many items. A difference is that of the paired bootstrap against the recipe as it is, on the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from cslm import contracts, storage
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection, Difference
from cslm.evaluate.report import wording
from cslm.tracking import Run

TABLE = "ablations.md"
# What is pooled and how its column is called: (group, metric).
_COLUMNS = {
    ("answer/within", "accuracy"): "right, one language",
    ("answer/across", "accuracy"): "right, across",
    ("answer/within", "speech_accuracy"): "right in speech, one language",
    ("answer/across", "speech_accuracy"): "right in speech, across",
    ("answer", "asr_er"): "speech against its text",
    ("answer", "first_speech_s"): "first speech (s)",
    ("asr", "cer"): "recognition, character error",
    ("text", "perplexity"): "perplexity of text",
}
_SURE = 0.05


@dataclass(frozen=True)
class Expectation:
    """A figure that the paper, or reason, says a change moves: down (-1) or up (+1)."""

    group: str
    metric: str
    direction: int

    def told(self) -> str:
        """In words."""
        where = {"answer/across": " across languages", "answer": " of answers"}.get(self.group, "")
        return f"{wording.meaning(self.metric)}{where} {'rises' if self.direction > 0 else 'falls'}"


def pooled(scores: pa.Table) -> pa.Table:
    """Scores with every task in its groups instead: `answer` and `answer/within` or `answer/across`, `asr`, `text`."""
    rows: list[dict[str, Any]] = []
    for row in scores.to_pylist():
        kind, _, direction = row["task"].partition("/")
        source, _, target = direction.partition("-")
        groups = [kind]
        if kind == "answer":
            groups.append("answer/within" if target in ("", source) else "answer/across")
        rows += [row | {"task": group, "id": f"{row['task']} {row['id']}"} for group in groups]
    return figures.table(rows)


def verdict(expected: Expectation, found: Difference | None) -> str:
    """Whether a direction shows: `yes`, `no` (the other way, surely), or that chance cannot be told from it."""
    if found is None:
        return "not measured"
    if found.p_value > _SURE:
        return f"not told from chance (p {found.p_value:.2f})"
    return "yes" if found.difference * expected.direction > 0 else "no, the other way"


def write(
    evaluated: Mapping[str, str],
    meanings: Mapping[str, str],
    expected: Mapping[str, Sequence[Expectation]],
    output: str,
    parent: Run,
    console: Console,
) -> None:
    """Make the table of the evaluations in the folders `evaluated`, the first of which is the recipe as it is."""
    contract = contracts.load("scores")
    scores = {
        name: pooled(contract.check(storage.read_table(storage.join(folder, "scores")), folder))
        for name, folder in evaluated.items()
    }
    base, *changed = scores
    section = BootstrapSection()
    own = {
        name: {(figure.task, figure.metric): figure.value for figure in figures.figures(table, section)}
        for name, table in scores.items()
    }
    against = {
        name: {(group, metric): found for group, metric, found in figures.compared(scores[base], scores[name], section)}
        for name in changed
    }
    columns = [column for column in _COLUMNS if any(column in values for values in own.values())]
    header = ["change", *(_COLUMNS[column] for column in columns)]
    rows = [[meanings[name], *(_cell(own, against, name, column) for column in columns)] for name in scores]
    directions = [
        [meanings[name], one.told(), verdict(one, against[name].get((one.group, one.metric)))]
        for name in changed
        for one in expected.get(name, ())
    ]
    text = _markdown(header, rows) + (
        "\nA star: p < 0.05 against the recipe as it is, paired bootstrap over the same items.\n\n"
        + _markdown(["change", "to be expected", "seen"], directions)
    )
    storage.write_text(storage.join(output, TABLE), text)
    parent.log_text(text, TABLE)
    told = {
        name: {f"{group}/{metric}": round(value, 5) for (group, metric), value in values.items()}
        for name, values in own.items()
    }
    parent.log_metrics(
        {f"ablation/{name}/{metric}": value for name, values in told.items() for metric, value in values.items()}
    )
    seen = [dict(zip(("change", "expected", "seen"), row, strict=True)) for row in directions]
    document = {"job": "ablations", "status": "done", "mlflow_run_id": parent.run_id, "metrics": told}
    storage.write_json(storage.join(output, "summary.json"), document | {"directions": seen})
    _show(console, header, rows, directions)
    console.print(f"the table: {storage.join(output, TABLE)}")


def _cell(
    own: Mapping[str, Mapping[tuple[str, str], float]],
    against: Mapping[str, Mapping[tuple[str, str], Difference]],
    name: str,
    column: tuple[str, str],
) -> str:
    value = own[name].get(column)
    if value is None:
        return "-"
    found = against.get(name, {}).get(column)
    return wording.number(column[1], value) + ("*" if found is not None and found.p_value < _SURE else "")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _show(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], directions: Sequence[Sequence[str]]
) -> None:
    """A measure a line, a variant a column: there are more measures than fit side by side on a terminal."""
    table = Table(title="the recipe with one thing changed", title_justify="left", title_style="bold")
    table.add_column("measure")
    for row in rows:
        table.add_column(row[0], justify="right")
    for place, name in enumerate(header[1:], 1):
        table.add_row(name, *(row[place] for row in rows))
    console.print(table)
    console.print("*: p < 0.05 against the recipe as it is, on the same items")
    for change, expected, seen in directions:
        console.print(f"{change}: {expected}: {seen}")

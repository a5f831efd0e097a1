"""What an evaluation tells at its end: a table, metrics, summary.json, and report.html with samples that play."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from rich.table import Table

from cslm import storage
from cslm.apps.job import Job
from cslm.evaluate import asking, figures, hearing
from cslm.evaluate.figures import Figure
from cslm.evaluate.report import page

REPORT = "report.html"
# Longest sound of a sample: the page holds them all.
_LONGEST_S = 20.0


def summarise(
    found: Sequence[Figure],
    about: Mapping[str, Any],
    split: str,
    model: str | None,
    curves: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "metrics": {figure.name: round(figure.value, 5) for figure in found},
        "intervals": {figure.name: [figure.told()["low"], figure.told()["high"]] for figure in found},
        "items": {figure.name: figure.num_items for figure in found},
        "counts": figures.counts(found),
        "model": model,
        "split": split,
        "made_by": dict(about),
        "layers": dict(curves),
    }


def metrics(found: Sequence[Figure]) -> dict[str, float]:
    """Figures and their bounds by the names that they have in tracking."""
    named = {f"eval/{figure.name}": figure.value for figure in found}
    bounds = {f"eval/{figure.name}/{end}": getattr(figure, end) for figure in found for end in ("low", "high")}
    return named | {name: value for name, value in bounds.items() if value == value}


def show(job: Job, found: Sequence[Figure]) -> None:
    """Print the closing tables: a row a task, a column a measure, and the most items that one of these has."""
    for family in page.tables(found):
        table = Table(title=family["title"], title_justify="left")
        for place, column in enumerate(("task", "items", *family["columns"])):
            table.add_column(column, justify="right" if place else "left")
        for row in family["rows"]:
            most = max((cell["items"] for cell in row["cells"]), key=lambda told: int(told.replace(",", "") or 0))
            table.add_row(row["task"], most, *(cell["value"] for cell in row["cells"]))
        job.console.print(table)


def write(
    job: Job, summary: Mapping[str, Any], found: Sequence[Figure], predictions: pa.Table, units: str, num_samples: int
) -> None:
    """Write report.html beside the predictions, and keep it with the run."""
    title = f"Evaluation of {storage.name(storage.parent(summary['model'])) if summary['model'] else 'the references'}"
    shown = samples(job.output, predictions, units, num_samples)
    html = page.render(title, found, summary["made_by"], summary["layers"], shown)
    storage.write_text(storage.join(job.output, REPORT), html)
    job.run.log_text(html, REPORT)
    job.say(f"confidence intervals, pictures and {len(shown)} samples: {storage.join(job.output, REPORT)}")


def samples(output: str, predictions: pa.Table, units: str, num_samples: int) -> list[dict[str, Any]]:
    """The first few predictions of each task, those with sound of their own before others, with what can be played."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(predictions.to_pylist(), key=lambda row: row["sample"] is None):
        of_task = by_task.setdefault(row["task"], [])
        if len(of_task) < num_samples:
            of_task.append(row)
    rows = [row for task in sorted(by_task) for row in by_task[task]]
    names = {row[column] for row in rows for column in ("question_audio", "reference_audio") if row[column]}
    where = {}
    if names:
        columns = ["id", "source", "start_s", "end_s"]
        found = storage.read_table(units, columns, pads.field("id").isin(sorted(names)))
        where = {row["id"]: row for row in found.to_pylist()}
    shown = []
    for row in rows:
        answer = storage.read_bytes(storage.join(output, row["sample"])) if row["sample"] else None
        sounds = {
            "question": _recording(where.get(row["question_audio"])),
            "reference": _recording(where.get(row["reference_audio"])),
            "answer": answer,
        }
        shown.append(page.sample(row, sounds))
    return shown


def _recording(place: Mapping[str, Any] | None) -> bytes | None:
    if place is None:
        return None
    try:
        samples = asking.recorded(place["source"], place["start_s"], place["end_s"])
    except OSError:
        return None
    if samples is None or len(samples) > _LONGEST_S * hearing.SAMPLE_RATE_HZ:
        return None
    return asking.encoded(samples, hearing.SAMPLE_RATE_HZ, "FLAC")

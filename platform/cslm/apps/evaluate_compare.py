"""`jobs/evaluate.py --compare A B`: two evaluations item by item, by the paired bootstrap."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.table import Table

from cslm import contracts, storage
from cslm.apps.evaluate_settings import CompareConfig
from cslm.apps.job import Job
from cslm.errors import ConfigError
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import Difference
from cslm.evaluate.figures import Figure
from cslm.evaluate.report import page, wording

_FLAG = "--compare"
DIFFERENCES, REPORT = "differences", "comparison.html"
_SHOWN_ITEMS, _SHOWN_OF_ONE = 200, 10


def arguments(argv: Sequence[str] | None) -> list[str] | None:
    """The settings that `--compare A B ...` stands for; None for the command line of an evaluation.

    Raises SystemExit when it does not name two outputs. Without `--output.path` results go into B.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if _FLAG not in given:
        return None
    place = given.index(_FLAG)
    pair = given[place + 1 : place + 3]
    if len(pair) < 2 or any(one.startswith("--") for one in pair):
        print(f"evaluate: {_FLAG} must be given two outputs of evaluations, as in {_FLAG} A B", file=sys.stderr)
        raise SystemExit(ConfigError.exit_code)
    rest = given[:place] + given[place + 3 :]
    if not any(one.partition("=")[0] == "--output.path" for one in rest):
        first, second = (storage.absolute(one) for one in pair)
        rest += ["--output.path", storage.join(second, f"compared_with_{storage.name(first)}")]
    return [*rest, "--compare.first", pair[0], "--compare.second", pair[1]]


def compare(config: CompareConfig, job: Job) -> None:
    """Compares two evaluations, A (compare.first) and B (compare.second), over the items that both have.

    For each measure both values, the difference with its interval, and how likely it is to be chance, by the paired
    bootstrap; differences/ holds every item whose own figure differs, comparison.html those that differ most.
    """
    folders = [storage.absolute(path) for path in (config.compare.first, config.compare.second)]
    missing = [folder for folder in folders if not storage.exists(storage.join(folder, "scores"))]
    if missing:
        raise ConfigError(
            [f"compare: must be the output of an evaluation, found no scores in {one}" for one in missing]
        )
    digests = [storage.listing_digest(storage.join(folder, "scores"), ".parquet") for folder in folders]
    key = [folders, digests, config.bootstrap.model_dump(mode="json")]
    if job.finished(key):
        return
    contract = contracts.load("scores")
    a, b = (contract.check(storage.read_table(storage.join(folder, "scores")), folder) for folder in folders)
    found = figures.compared(a, b, config.bootstrap)
    if not found:
        raise ConfigError("compare: two evaluations must have measures of the same items, found none in common")
    items = figures.item_differences(a, b)
    storage.write_table(items, storage.join(job.output, DIFFERENCES, "part-00000.parquet"))
    rows = [_row(task, metric, difference) for task, metric, difference in found]
    _show(job, rows, folders)
    title = f"A {folders[0]}, B {folders[1]}"
    html = page.comparison(title, rows, _items(items, folders))
    storage.write_text(storage.join(job.output, REPORT), html)
    job.run.log_text(html, REPORT)
    job.run.log_metrics({f"compare/{task}/{metric}": difference.difference for task, metric, difference in found})
    measures = {f"{task}/{metric}": _told(difference) for task, metric, difference in found}
    job.complete(key, {"a": folders[0], "b": folders[1], "differences": measures, "items_that_differ": items.num_rows})


def _told(difference: Difference) -> dict[str, Any]:
    values = {name: getattr(difference, name) for name in ("a", "b", "difference", "low", "high", "p_value")}
    return {**{name: round(value, 5) for name, value in values.items()}, "items": difference.num_items}


def _row(task: str, metric: str, found: Difference) -> dict[str, str]:
    bounds = Figure(task, metric, found.difference, found.low, found.high, found.num_items)
    is_clear = found.low > 0 or found.high < 0
    verdict = ("better" if figures.is_better(metric, found.difference) else "worse") if is_clear else ""
    return {
        "name": f"{task}/{metric}",
        "a": wording.number(metric, found.a),
        "b": wording.number(metric, found.b),
        "difference": wording.number(metric, found.difference),
        "interval": wording.interval(bounds),
        "p": f"{found.p_value:.3f}",
        "items": f"{found.num_items:,}",
        "verdict": verdict,
    }


def _show(job: Job, rows: Sequence[Mapping[str, str]], folders: Sequence[str]) -> None:
    job.say(f"A: {folders[0]}\nB: {folders[1]}")
    table = Table(title="B against A, paired bootstrap over the same items", title_justify="left")
    for column in ("measure", "A", "B", "B - A", "interval", "p", "items", ""):
        table.add_column(column, justify="left" if column in ("measure", "") else "right")
    for row in rows:
        table.add_row(*(row[name] for name in ("name", "a", "b", "difference", "interval", "p", "items", "verdict")))
    job.console.print(table)


def _items(differences: pa.Table, folders: Sequence[str]) -> list[dict[str, str]]:
    """The items that differ most in each measure, with what both models gave."""
    chosen: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for row in differences.to_pylist():
        name = f"{row['task']}/{row['metric']}"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= _SHOWN_OF_ONE and len(chosen) < _SHOWN_ITEMS:
            chosen.append({**row, "name": name})
    gave = [_outputs(folder) for folder in folders]
    rows = []
    for row in chosen:
        of_both = [one.get((row["task"], row["id"]), {}) for one in gave]
        rows.append(
            {
                "name": row["name"],
                "id": row["id"],
                "a": wording.number(row["metric"], row["a"]),
                "b": wording.number(row["metric"], row["b"]),
                "verdict": "better" if figures.is_better(row["metric"], row["difference"]) else "worse",
                "reference": of_both[0].get("reference", ""),
                "output_a": _gave(row["metric"], of_both[0]),
                "output_b": _gave(row["metric"], of_both[1]),
            }
        )
    return rows


def _outputs(folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    table = storage.join(folder, "predictions")
    if not storage.exists(table):
        return {}
    rows = storage.read_table(table, ["task", "id", "reference", "output", "spoken", "heard"]).to_pylist()
    return {(row["task"], row["id"]): row for row in rows}


def _gave(metric: str, row: Mapping[str, Any]) -> str:
    """What of an output a measure looks at."""
    if metric == "question_cer":
        return row.get("heard") or ""
    is_of_speech = metric.startswith("speech_") or metric == "asr_er" or row.get("task", "").startswith("tts/")
    return (row.get("spoken") if is_of_speech else row.get("output")) or ""

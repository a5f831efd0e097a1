"""What the demo did, out of its jobs' `summary.json`: one document for scripts, tables for people.

Only what the jobs measured is shown; a figure that a job did not give is a dash.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cslm.evaluate.report import wording

_TRAININGS = ("pretrain", "sft")
_DASH = "-"
# Of the measures of an evaluation these are for everyone: title, kind of task, measures.
_SHOWN = (
    ("recognition of held-out speech", "asr", ("cer", "wer")),
    (
        "answers to held-out spoken questions",
        "answer",
        ("accuracy", "speech_accuracy", "question_cer", "asr_er", "off_target", "speech_off_target"),
    ),
    (
        "waiting for an answer",
        "answer",
        ("first_text_s", "first_speech_s", "real_time_factor", "full_over_interleaved"),
    ),
)


def collect(summaries: Mapping[str, Mapping[str, Any]], walls_s: Mapping[str, float]) -> dict[str, Any]:
    """The figures of all steps as one JSON document; `summaries` are the jobs' own, `walls_s` the seconds they took."""
    evaluated = summaries.get("evaluate", {})
    return {
        "hours": summaries.get("tokenize", {}).get("hours"),
        "units": summaries.get("tokenize", {}).get("units"),
        "utterances": summaries.get("tokenize", {}).get("rows"),
        "by_language": summaries.get("tokenize", {}).get("by_language"),
        "alignments": {key: summaries.get("align", {}).get(key) for key in ("rows", "words", "score")},
        "tokenizer": {
            key: summaries.get("fit_tokenizer", {}).get(key) for key in ("tokenizer", "qualities", "training")
        },
        "training": {
            name: {
                key: summaries[name].get(key) for key in ("steps", "tokens", "throughput", "loss_first", "loss_last")
            }
            for name in _TRAININGS
            if name in summaries
        },
        "decoder": {key: summaries.get("decoder", {}).get(key) for key in ("decoder", "metrics")},
        "metrics": evaluated.get("metrics", {}),
        "counts": evaluated.get("counts", {}),
        "items": evaluated.get("items", {}),
        "wall_s": {"total": round(sum(walls_s.values()), 1), **walls_s},
        "mlflow_run_ids": {name: summary.get("mlflow_run_id") for name, summary in summaries.items()},
    }


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print the document of `collect` as tables."""
    console.print(_steps(document))
    console.print(_losses(document))
    for title, kind, measures in _SHOWN:
        table = _measures(document, title, kind, measures)
        if table.row_count:
            console.print(table)


def _steps(document: Mapping[str, Any]) -> Table:
    table = _table("what was done", "step", "time", "result")
    table.columns[2].justify = "left"
    for step, wall_s in document["wall_s"].items():
        table.add_row(step, _clock(wall_s), _result(step, document))
    return table


def _result(step: str, document: Mapping[str, Any]) -> str:
    languages = document.get("by_language") or {}
    if step == "corpus":
        return f"synthetic speech in {', '.join(languages)}" if languages else ""
    if step == "fit_tokenizer":
        errors = (document["tokenizer"]["qualities"] or {}).get("character_error_rate", {})
        shown = ", ".join(f"{language} {error:.1%}" for language, error in sorted(errors.items()))
        return f"recogniser and units; character error of the recogniser {shown}" if shown else ""
    if step == "tokenize":
        rows = document.get("utterances") or {}
        taken, rejected = _number(rows.get("accepted")), _number(rows.get("rejected"))
        hours, units = _number(document["hours"], ".2f"), _number(document["units"])
        return f"{hours} hours in, {units} units out; {taken} utterances taken, {rejected} rejected"
    if step == "align":
        found = document["alignments"]
        taken = _number((found["rows"] or {}).get("accepted"))
        return f"{taken} spoken answers, {_number(found['words'])} words with their times"
    if step in document["training"]:
        done = document["training"][step]
        rate = (done.get("throughput") or {}).get("tokens_per_s")
        return f"{_number(done.get('steps'))} steps, {_number(done.get('tokens'))} tokens, {_number(rate)} tokens/s"
    if step == "decoder":
        measures = document["decoder"]["metrics"] or {}
        error, ratio = (measures.get(f"resynthesis/mean/{kind}") for kind in ("cer", "ratio"))
        return f"heard with {_number(error, '.1%')} character error, {_number(ratio, '.2f')} x the original's"
    if step == "evaluate":
        return f"{_number(sum(document['counts'].values()))} held-out items, greedy decoding"
    return ""


def _losses(document: Mapping[str, Any]) -> Table:
    trainings = document["training"]
    table = _table("loss a target token, first -> last", "task", *trainings)
    tasks = {task for done in trainings.values() for key in ("loss_first", "loss_last") for task in done.get(key) or {}}
    for task in sorted(tasks, key=lambda name: (name != "total", name)):
        cells = []
        for done in trainings.values():
            first, last = ((done.get(key) or {}).get(task) for key in ("loss_first", "loss_last"))
            cells.append(f"{_number(first, '.3f')} -> {_number(last, '.3f')}" if task in _tasks(done) else _DASH)
        table.add_row(task, *cells)
    return table


def _tasks(done: Mapping[str, Any]) -> set[str]:
    return {*(done.get("loss_first") or {}), *(done.get("loss_last") or {})}


def _measures(document: Mapping[str, Any], title: str, kind: str, measures: Sequence[str]) -> Table:
    """One line for each task of a kind, and their mean; the report of the evaluation has more."""
    values = {name: value for name, value in document["metrics"].items() if name.startswith(f"{kind}/")}
    tasks = sorted({name.rpartition("/")[0] for name in values if name.rpartition("/")[2] in measures})
    kinds = [one for one in measures if any(f"{task}/{one}" in values for task in tasks)]
    table = _table(f"{title}, greedy decoding", "spoken", "items", *map(wording.meaning, kinds))
    for task in tasks:
        found = [values.get(f"{task}/{one}") for one in kinds]
        # Not all items of a task are measured in every way: waiting is timed for a few.
        items = next((document["items"][name] for one in kinds if (name := f"{task}/{one}") in document["items"]), None)
        table.add_row(task.partition("/")[2], _number(items), *map(_value, kinds, found))
    if len(tasks) > 1:
        columns = [[values[f"{task}/{one}"] for task in tasks if f"{task}/{one}" in values] for one in kinds]
        means = [statistics.mean(column) for column in columns]
        table.add_row("mean", "", *map(_value, kinds, means), style="bold")
    return table


def _value(measure: str, value: float | None) -> str:
    return _DASH if value is None else wording.number(measure, value)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    return table


def _number(value: Any, form: str = ",") -> str:
    if not isinstance(value, int | float):
        return _DASH
    return format(round(value) if form == "," else value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

"""What the demo did, out of its jobs' `summary.json`: one document for scripts, tables for people.

Only what the jobs measured is shown; a figure that a job did not give is a dash.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cslm.evaluate.report import wording

_TRAININGS = ("pretrain", "sft")
_DASH = "-"
# Of the measures of an evaluation these are for everyone.
_SHOWN = (
    *("cer", "wer", "accuracy", "speech_accuracy", "question_cer", "asr_er", "off_target", "speech_off_target"),
    *("first_speech_s", "full_over_interleaved"),
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
        "wall_s": {"total": round(sum(walls_s.values()), 1), **walls_s},
        "mlflow_run_ids": {name: summary.get("mlflow_run_id") for name, summary in summaries.items()},
    }


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print the document of `collect` as tables."""
    console.print(_steps(document))
    console.print(_losses(document))
    console.print(_measures(document))


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


def _measures(document: Mapping[str, Any]) -> Table:
    """One line for each task and language or direction, one column for each kind of measure; the report has more."""
    known = [name for name in document["metrics"] if name.rpartition("/")[2] in _SHOWN]
    names = sorted(known, key=lambda name: (not name.startswith("asr/"), name))
    kinds = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    table = _table("held-out, measured by greedy decoding", "task", "items", *map(wording.meaning, kinds))
    for task in dict.fromkeys(name.rpartition("/")[0] for name in names):
        values = ((kind, document["metrics"].get(f"{task}/{kind}")) for kind in kinds)
        told = (_DASH if value is None else wording.number(kind, value) for kind, value in values)
        table.add_row(task, _number(document["counts"].get(task)), *told)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _number(value: Any, form: str = ",") -> str:
    if not isinstance(value, int | float):
        return _DASH
    return format(round(value) if form == "," else value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

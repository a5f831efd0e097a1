"""The page itself: what is shown, made ready for the template."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from cslm import storage
from cslm.evaluate.figures import Figure
from cslm.evaluate.report import pictures, wording

_TEMPLATE = Path(__file__).parent / "page.html.jinja"
_COMPARISON = Path(__file__).parent / "comparison.html.jinja"


def render(
    title: str,
    figures: Sequence[Figure],
    about: Mapping[str, Any],
    curves: pictures.Curves,
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page. `samples`: as `sample` makes them."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for one in samples:
        by_task.setdefault(one["task"], []).append(one)
    return fill(
        _TEMPLATE,
        title=title,
        about={name: _told(value) for name, value in about.items()},
        tables=tables(figures),
        pictures=pictures.of(figures, curves),
        samples=by_task,
    )


def comparison(title: str, rows: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]) -> str:
    """The page of two evaluations: differences of measures, and the items that differ most."""
    return fill(_COMPARISON, title=title, rows=rows, items=items)


def tables(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """One table for each family: title, meaning, columns, and rows of cells (value, interval, items)."""
    families: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        families.setdefault(wording.family(figure), []).append(figure)
    known = [*wording.FAMILIES.values()]
    ordered = sorted(families, key=lambda one: (known.index(one) if one in known else len(known), one[0]))
    found = []
    for family in ordered:
        members = families[family]
        columns = list(dict.fromkeys(figure.metric for figure in members))
        rows = []
        for task in dict.fromkeys(figure.task for figure in members):
            of_task = {figure.metric: figure for figure in members if figure.task == task}
            rows.append({"task": task, "cells": [_cell(of_task.get(column)) for column in columns]})
        headings = [wording.meaning(column) for column in columns]
        found.append({"title": family[0], "meaning": family[1], "columns": headings, "rows": rows})
    return found


def sample(row: Mapping[str, Any], sounds: Mapping[str, bytes | None]) -> dict[str, Any]:
    """A prediction as it is shown; `sounds`: FLAC or WAV of question, reference and answer, as far as there are any."""
    return {
        **{name: row[name] for name in ("id", "task", "question", "heard", "reference", "output", "spoken", "right")},
        "sounds": {name: _data(content) for name, content in sounds.items() if content},
    }


def _cell(figure: Figure | None) -> dict[str, str]:
    if figure is None:
        return {"value": "", "interval": "", "items": ""}
    value = wording.number(figure.metric, figure.value)
    return {"value": value, "interval": wording.interval(figure), "items": f"{figure.num_items:,}"}


def _data(content: bytes) -> str:
    kind = "flac" if content[:4] == b"fLaC" else "wav"
    return f"data:audio/{kind};base64,{base64.b64encode(content).decode()}"


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def fill(template: Path, **content: Any) -> str:
    """A template with its content put in, which may hold any text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(storage.read_text(str(template))).render(**content)

"""The report of a run: what went in, what the ceiling test saw, curves, old against new, samples, and the verdict."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cslm.evaluate import figures
from cslm.evaluate.bootstrap import Difference
from cslm.evaluate.figures import Figure
from cslm.evaluate.report import page, wording
from cslm.languages.gate import Check, Verdict

_TEMPLATE = Path(__file__).parent / "page.html.jinja"
# What a person asks first of a language; everything else stands in the evaluations' own reports.
_MAIN = {
    "asr": ("cer", "wer"),
    "tts": ("cer",),
    "mt": ("chrf",),
    "st": ("chrf",),
    "answer": ("accuracy", "speech_accuracy", "off_target"),
    "text": ("perplexity",),
}
_KINDS = {
    "target": "targets of the cards",
    "kept": "what the champion could do",
    "off_target": "answers in the language asked for",
}


def render(
    title: str,
    *,
    ending: str,
    reasons: Sequence[str],
    facts: Mapping[str, str],
    sources: Sequence[Mapping[str, str]],
    ceiling: Mapping[str, Any] | None,
    compared: Sequence[tuple[str, str, Difference]],
    only_new: Sequence[Figure],
    languages: Sequence[str],
    verdict: Verdict | None,
    curves: Mapping[str, bytes],
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page; nothing beside it is needed. `samples`: as `evaluate.report.page.sample` makes them."""
    return page.fill(
        _TEMPLATE,
        title=title,
        ending=ending,
        reasons=list(reasons),
        facts=facts,
        sources=sources,
        ceiling=_ceiling(ceiling) if ceiling else None,
        tables=tables(compared, only_new, languages),
        checks={told: _checks(verdict.checks, kind) for kind, told in _KINDS.items()} if verdict else {},
        curves={name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in curves.items()},
        samples=samples,
    )


def tables(
    compared: Sequence[tuple[str, str, Difference]], only_new: Sequence[Figure], languages: Sequence[str]
) -> list[dict[str, Any]]:
    """A table a language of the main measures before and after; of a pair of languages it is with the one asked for."""
    found = []
    for code in languages:
        rows = [_row(task, metric, one.a, one.b, one) for task, metric, one in compared if _belongs(task, metric, code)]
        rows += [
            _row(one.task, one.metric, None, one.value, None)
            for one in only_new
            if _belongs(one.task, one.metric, code)
        ]
        if rows:
            found.append({"language": code, "rows": rows})
    return found


def _belongs(task: str, metric: str, code: str) -> bool:
    kind, _, spoken = task.partition("/")
    return metric in _MAIN.get(kind, ()) and (spoken == code or spoken.endswith(f"-{code}"))


def _row(task: str, metric: str, before: float | None, after: float, found: Difference | None) -> dict[str, str]:
    told = {
        "name": task,
        "measure": wording.meaning(metric),
        "before": "-" if before is None else wording.number(metric, before),
        "after": wording.number(metric, after),
    }
    if found is None:
        return {**told, "interval": "", "p": "", "items": "", "verdict": ""}
    clear = found.low > 0 or found.high < 0
    bounds = Figure(task, metric, found.difference, found.low, found.high, found.num_items)
    return {
        **told,
        "interval": wording.interval(bounds),
        "p": f"{found.p_value:.3f}",
        "items": f"{found.num_items:,}",
        "verdict": ("better" if figures.is_better(metric, found.difference) else "worse") if clear else "",
    }


def _checks(checks: Sequence[Check], kind: str) -> list[dict[str, str]]:
    # What failed is read first.
    ordered = sorted((one for one in checks if one.kind == kind), key=lambda one: one.passed)
    return [{"mark": "passed" if one.passed else "refused", "told": one.told} for one in ordered]


def _ceiling(summary: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for code, one in summary["languages"].items():
        shares = (
            one["original_error"],
            one["resynthesis_error"],
            one["reader_error"],
            one["usage"],
            one["script_share"],
        )
        told = ["-" if share is None else f"{100 * share:.1f}%" for share in shares]
        opinion = summary["opinions"].get(code)
        grade = opinion["grade"] if opinion else "known"
        rows.append([code, *told[:4], f"{one['units_per_s']:.1f}", told[4], grade])
    reasons = [f"{code}: {reason}" for code, one in summary["opinions"].items() for reason in one["reasons"]]
    return {"rows": rows, "reasons": reasons, "listener": summary["listener"] or "nobody"}

"""What a run of retraining tells at its end: report.html and gate.json in its folder, and metrics of its MLflow run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cslm import contracts, storage
from cslm.apps import evaluate_report, training_curves
from cslm.apps.retrain_chain import Chain, Made, scores_of
from cslm.data import sources
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.languages.budget import Spent
from cslm.languages.card import Card
from cslm.languages.gate import Verdict
from cslm.languages.planning import Planned
from cslm.languages.report import page
from cslm.languages.state import Champion

REPORT, GATE = "report.html", "gate.json"
_SAMPLES_OF_A_TASK = 1


def write(
    planned: Planned,
    cards: Mapping[str, Card],
    champion: Champion | None,
    chain: Chain,
    made: Made | None,
    verdict: Verdict | None,
    ending: str,
    reasons: list[str],
    spent: Spent,
) -> str:
    """Write the report of a run as far as it came, and give its place."""
    if verdict is not None:
        document = {"passed": verdict.passed, "checks": [asdict(one) for one in verdict.checks]}
        storage.write_json(storage.join(chain.folder, GATE), document)
    before = scores_of(made.before) if made and made.before else None
    after = scores_of(made.evaluation) if made else None
    section = BootstrapSection()
    compared = figures.compared(before, after, section) if before is not None and after is not None else []
    seen = {(task, metric) for task, metric, _ in compared}
    alone = (
        [one for one in figures.figures(after, section) if (one.task, one.metric) not in seen]
        if after is not None
        else []
    )
    known = list(champion.languages) if champion else []
    curves = {job: storage.join(chain.folder, job, training_curves.FILE) for job in ("pretrain", "sft")}
    html = page.render(
        f"Retraining {planned.run}: {', '.join(cards[code].name for code in planned.languages)}",
        ending=ending,
        reasons=reasons,
        facts=_facts(planned, champion, chain, spent),
        sources=_sources(chain),
        ceiling=chain.summaries.get("ceiling"),
        compared=compared,
        only_new=alone,
        languages=[*planned.languages, *(code for code in known if code not in planned.languages)],
        verdict=verdict,
        curves={name: storage.read_bytes(uri) for name, uri in curves.items() if storage.exists(uri)},
        samples=_samples(made) if made else [],
    )
    report = storage.join(chain.folder, REPORT)
    storage.write_text(report, html)
    return report


def metrics(verdict: Verdict | None, spent: Spent) -> dict[str, float]:
    """Metrics of the run: what the gate looked at, before and after, and what it cost."""
    found = {"budget/hours": spent.wall_s / 3600, "budget/gpu_hours": spent.gpu_s / 3600}
    for check in verdict.checks if verdict else ():
        name = check.measure.replace("*", "any")
        values = {"after": check.value, "before": check.before, "p_value": check.p_value}
        found |= {f"gate/{name}/{key}": value for key, value in values.items() if value is not None and value == value}
    return found


def _facts(planned: Planned, champion: Champion | None, chain: Chain, spent: Spent) -> dict[str, str]:
    found = {
        "why": planned.reason,
        "trained": ", ".join(planned.languages),
        "replayed": ", ".join(planned.replayed) or "nothing",
        "started from": champion.model if champion and planned.continues else "the recipe's base model",
        "spent": f"{spent.wall_s / 3600:.2f} hours, {spent.gpu_s / 3600:.2f} GPU-hours",
    }
    for job in ("pretrain", "sft"):
        if job in chain.summaries:
            summary = chain.summaries[job]
            found[job] = f"{summary['steps']:,} steps, {summary['tokens']:,} tokens"
    return found


def _sources(chain: Chain) -> list[dict[str, str]]:
    rows = []
    for name, summary in chain.summaries.items():
        job, _, rest = name.partition(" ")
        if job in ("tokenize", "ingest", "take"):
            counts = summary["rows"]
            told = f"{counts['accepted']:,} taken, {counts['rejected']:,} rejected"
            hours = f"{summary['hours']:.2f}" if "hours" in summary else ""
            table = "utterances" if job == "tokenize" else summary["table"]
            rows.append(
                {"language": rest.partition(" ")[0], "table": table, "source": name, "rows": told, "hours": hours}
            )
    return rows


def _samples(made: Made) -> list[dict[str, Any]]:
    table = storage.read_table(storage.join(made.evaluation, "predictions"))
    predictions = contracts.load("predictions").check(table, made.evaluation)
    units = sources.units_folder(str(made.tables["units"]))
    return evaluate_report.samples(made.evaluation, predictions, units, _SAMPLES_OF_A_TASK)

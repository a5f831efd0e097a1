"""What a training job tells about its data and its losses: tables for people, metrics and a document for MLflow."""

import io
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cslm.apps.job import Job


def tell_epoch(job: Job, stats: Mapping[str, Any], num_steps: int, rows_per_step: int) -> None:
    """Show what one epoch holds, and record it: metrics `data/...`, artifacts `mixture.txt` and `mixture.json`.

    `stats` are those of a packed table (`data.pack.build`).
    """
    table = epoch_table(stats)
    job.console.print(table)
    epochs = num_steps * rows_per_step / stats["num_rows"]
    job.say(
        f"{stats['num_rows']:,} rows of {stats['row_length']} tokens, {stats['efficiency']:.1%} filled; "
        f"{num_steps:,} steps are {epochs:.2f} epochs"
    )
    notes = notes_of(stats)
    for note in notes:
        job.say(note)
    plain = io.StringIO()
    Console(file=plain, width=160, color_system=None).print(table)
    job.run.log_text(plain.getvalue() + "\n".join([*notes, ""]), "mixture.txt")
    job.run.log_text(json.dumps(stats, indent=2, ensure_ascii=False), "mixture.json")
    job.run.log_metrics(metrics_of(stats))


def epoch_table(stats: Mapping[str, Any]) -> Table:
    """One line a group: what the tables hold of it, how often it is seen, and what that comes to in an epoch."""
    table = Table(title="one epoch of training data", title_justify="left")
    for column in ("group", "held", "repeats", "examples", "tokens", "targets", "share", "set aside"):
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    for group, task in stats["tasks"].items():
        table.add_row(
            group,
            f"{task['held']:,}",
            f"{task['repeats']:.3g}" + ("*" if task["bounded_from"] else ""),
            *(f"{task[name]:,}" for name in ("examples", "tokens", "targets")),
            f"{task['share']:.1%}",
            f"{sum(stats['set_aside'].get(group, {}).values()):,}",
        )
    whole = [sum(task[name] for task in stats["tasks"].values()) for name in ("examples", "tokens", "targets")]
    aside = sum(sum(reasons.values()) for reasons in stats["set_aside"].values())
    table.add_section()
    table.add_row("total", "", "", *(f"{number:,}" for number in whole), "", f"{aside:,}")
    return table


def notes_of(stats: Mapping[str, Any]) -> list[str]:
    """Sentences under the table: groups whose repeats were bounded, and why examples were set aside."""
    notes = [
        f"* {group}: bounded to {task['repeats']:.3g} repeats by data.mixture.max_repeats, would have been "
        f"{task['bounded_from']:.3g}"
        for group, task in stats["tasks"].items()
        if task["bounded_from"]
    ]
    for group, reasons in stats["set_aside"].items():
        notes.append(f"set aside of {group}: " + ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()))
    return notes


def metrics_of(stats: Mapping[str, Any]) -> dict[str, float]:
    """The metrics `data/<figure>/<group>` and the totals of an epoch."""
    metrics = {f"data/{name}": float(stats[name]) for name in ("num_rows", "num_tokens", "efficiency")}
    for group, task in stats["tasks"].items():
        for name in ("examples", "tokens", "targets", "repeats", "share"):
            metrics[f"data/{name}/{group}"] = float(task[name])
    for group, reasons in stats["set_aside"].items():
        metrics[f"data/set_aside/{group}"] = float(sum(reasons.values()))
    return metrics


def show_losses(job: Job, result: Mapping[str, Any]) -> None:
    """Show the losses of a finished training."""
    table = Table(title="loss, mean per target token", title_justify="left")
    for column in ("task", "first", "last"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, last in result["loss_last"].items():
        table.add_row(task, f"{result['loss_first'].get(task, float('nan')):.3f}", f"{last:.3f}")
    job.console.print(table)
    told = [f"{result['tokens']:,} tokens at {result['throughput']['tokens_per_s']:,.0f} tokens/s"]
    if "mfu" in result:
        told.append(f"MFU {result['mfu']:.1%}")
    told.append(f"{result['data_wait_fraction']:.2%} of the time waiting for data")
    if best := result.get("best_evaluation"):
        told.append(f"best held-out loss {best['loss']:.3f} at step {best['step']:,}")
    if result["skipped_steps"] or result["roll_backs"]:
        told.append(f"{result['skipped_steps']} steps skipped, went back {len(result['roll_backs'])} times")
    job.say("; ".join(told))


def log_models(job: Job, result: Mapping[str, Any], checkpoints: Mapping[int, str], model: str) -> None:
    """Record the kept checkpoints, by their steps, and the final model as logged models of the run."""
    losses = {int(step): loss for step, loss in result.get("evaluations", [])}
    last = result["steps"]
    for step, uri in checkpoints.items():
        metrics = {"checkpoint/eval_loss": losses[step]} if step in losses else {}
        job.run.log_model(f"checkpoint-{step:08d}", uri, step=step, metrics=metrics, tags={"cslm.kind": "checkpoint"})
    metrics = {"model/loss": result["loss_last"]["total"]}
    if last in losses:
        metrics["model/eval_loss"] = losses[last]
    job.run.log_model("model", model, step=last, metrics=metrics, tags={"cslm.kind": "hugging_face"})

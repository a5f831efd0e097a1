"""What the fit_tokenizer job tells when it is done: a table, metrics, and the card that lies in the folder."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cslm.apps.job import Job


def summarise(
    described: dict[str, Any], result: dict[str, Any], train: Sequence[dict[str, Any]], languages: Sequence[str]
) -> dict[str, Any]:
    """The facts of the finished job."""
    learned_from = {
        language: {
            "utterances": sum(shard["utterances"] for shard in train if shard["language"] == language),
            "hours": round(sum(shard["audio_s"] for shard in train if shard["language"] == language) / 3600, 3),
        }
        for language in languages
    }
    return {
        "tokenizer": {name: described[name] for name in ("kind", "fingerprint", "codebook_size", "frame_rate_hz")},
        "qualities": described["qualities"],
        "learned_from": learned_from,
        "training": {name: result[name] for name in ("step", "audio_s", "train_s", "cpu_s", "loss", "errors")},
    }


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """What is compared between runs."""
    qualities = summary["qualities"]
    found = {f"units/{name}": qualities[name] for name in ("units_per_s", "perplexity", "bits_per_s")}
    return found | {f"eval/asr/{one}/cer": error for one, error in qualities["character_error_rate"].items()}


def show(job: Job, summary: dict[str, Any]) -> None:
    """Print the closing table."""
    table = Table(title="recogniser, character error on dev", title_justify="left")
    for column in ("language", "utterances", "hours", "error"):
        table.add_column(column, justify="left" if column == "language" else "right")
    errors = summary["qualities"]["character_error_rate"]
    for language, facts in summary["learned_from"].items():
        error = f"{errors[language]:.1%}" if language in errors else "no dev"
        table.add_row(language, f"{facts['utterances']:,}", f"{facts['hours']:.2f}", error)
    job.console.print(table)
    made, qualities = summary["tokenizer"], summary["qualities"]
    job.say(
        f"tokenizer {made['kind']} {made['fingerprint']}: {made['codebook_size']:,} units at {made['frame_rate_hz']:g} "
        f"Hz, {qualities['units_per_s']:.1f} a second when merged, perplexity {qualities['perplexity']:.0f}, "
        f"{qualities['bits_per_s']:.0f} bits/s"
    )


def card(described: dict[str, Any], summary: dict[str, Any]) -> str:
    """The model card, Markdown."""
    shape, qualities = described["network"]["shape"], described["qualities"]
    rows = []
    for language, facts in summary["learned_from"].items():
        error = qualities["character_error_rate"].get(language)
        shown = "not measured" if error is None else f"{error:.2%}"
        rows.append(f"| {language} | {facts['utterances']:,} | {facts['hours']:.2f} | {shown} |")
    return "\n".join(
        [
            f"# Speech tokenizer and recogniser {described['fingerprint']}",
            "",
            f"{described['codebook_size']:,} units, {described['frame_rate_hz']:g} a second before repeats are merged: "
            f"k-means over the frames after block {shape['unit_block']} of {shape['num_blocks']} of a convolutional "
            f"network of width {shape['width']} that was trained to recognise characters by CTC.",
            "",
            "| language | utterances | hours | character error, greedy, dev split |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Units: {qualities['units_per_s']:.1f} a second when merged, perplexity {qualities['perplexity']:.0f}, "
            f"{qualities['bits_per_s']:.0f} bits a second.",
            "",
            "```sh",
            "python jobs/tokenize.py --tokenizer.kind learned --tokenizer.path THIS_FOLDER ...",
            "python -m cslm.recognise THIS_FOLDER recording.wav",
            "```",
            "",
        ]
    )

"""What the tokenize job tells: rate while it runs, and at the end a table, metrics and a picture."""

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cslm.apps.job import Job
from cslm.apps.shard_progress import METRICS_EVERY_S
from cslm.data.ledger import Entry, add_counts
from cslm.data.manifest import Manifest


class RowCounter:
    """Rows of the manifest as they are read, told every ten seconds: a corpus of millions takes a while."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._started_s = self._told_s = time.monotonic()

    def __call__(self, num_rows: int) -> None:
        """`num_rows` have been read so far."""
        now = time.monotonic()
        if now - self._told_s >= METRICS_EVERY_S:
            self._told_s = now
            self._job.say(f"manifest: {num_rows:,} rows, {num_rows / (now - self._started_s):,.0f}/s")


def summarise(corpus: Manifest, entries: Sequence[Entry], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json. Accepted and rejected rows are all rows of the manifest.

    A recording that was split is one row; `utterances` are the rows of the units table, `spans` those that were cut.
    """
    numbers = ("rows", "accepted", "rejected", "utterances", "spans", "rejected_spans", "frames", "units")
    sums_s = ("audio_s", "rejected_s", "trimmed_s", "transcribed_s", "characters")
    total: Entry = dict.fromkeys(numbers, 0) | dict.fromkeys(sums_s, 0.0)
    total |= {"reasons": {}, "span_reasons": {}, "text_changes": {}}
    by_place: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        counts = {name: entry[name] for name in total}
        total = add_counts(total, counts)
        places = by_place.setdefault(entry["language"], {})
        places[entry["split"]] = add_counts(places.get(entry["split"], {}), counts)
    accepted = total["accepted"]
    reasons = add_counts(total["reasons"], corpus.rejected)
    rejected = sum(reasons.values())
    assert accepted + rejected == corpus.num_rows, (accepted, reasons, corpus.num_rows)
    assert sum(total["span_reasons"].values()) == total["rejected_spans"], total["span_reasons"]
    return {
        "rows": {"manifest": corpus.num_rows, "accepted": accepted, "rejected": rejected, "reasons": reasons},
        "utterances": {
            "units": total["utterances"],
            "spans": total["spans"],
            "rejected_spans": total["rejected_spans"],
            "span_reasons": total["span_reasons"],
        },
        "text_changes": total["text_changes"],
        # Rejected audio counts as far as its length is known, and so does the silence beside what was cut.
        "hours_in": round((total["audio_s"] + total["rejected_s"] + total["trimmed_s"]) / 3600, 4),
        "hours": round(total["audio_s"] / 3600, 4),
        "frames": total["frames"],
        "units": total["units"],
        "units_per_s": round(total["units"] / max(total["audio_s"], 1e-9), 3),
        "by_language": {
            language: {split: _place(counts) for split, counts in sorted(places.items())}
            for language, places in sorted(by_place.items())
        },
        "tokenizer": {name: tokenizer[name] for name in ("kind", "fingerprint", "frame_rate_hz", "codebook_size")},
        "manifest": {"key": corpus.key, "shards": len(corpus.shards)},
    }


def show(job: Job, summary: dict[str, Any]) -> None:
    """Print the closing table."""
    table = Table("language", "split", title="units")
    for heading in ("utterances", "rejected", "hours", "units", "units/s"):
        table.add_column(heading, justify="right")
    for language, places in summary["by_language"].items():
        for split, place in places.items():
            table.add_row(
                language, split, f"{place['utterances']:,}", f"{place['rejected']:,}", f"{place['hours']:.2f}",
                f"{place['units']:,}", f"{place['units_per_s']:.1f}",
            )  # fmt: skip
    rows = summary["rows"]
    table.add_section()
    table.add_row(
        "all", "", f"{summary['utterances']['units']:,}", f"{rows['rejected']:,}", f"{summary['hours']:.2f}",
        f"{summary['units']:,}", f"{summary['units_per_s']:.1f}",
    )  # fmt: skip
    job.console.print(table)
    reasons = _listed(rows["reasons"])
    job.say(f"{rows['manifest']:,} rows = {rows['accepted']:,} accepted + {rows['rejected']:,} rejected ({reasons})")
    cut = summary["utterances"]
    if cut["spans"] or cut["rejected_spans"]:
        rejected = f"{cut['rejected_spans']:,} rejected ({_listed(cut['span_reasons'])})"
        job.say(f"long recordings gave {cut['spans']:,} utterances, besides {rejected}")
    if summary["text_changes"]:
        job.say(f"transcripts changed to their normal form: {_listed(summary['text_changes'])}")


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The summary as metrics."""
    flat = {
        "data/rows": summary["rows"]["manifest"],
        "data/accepted": summary["rows"]["accepted"],
        "data/rejected": summary["rows"]["rejected"],
        "data/utterances": summary["utterances"]["units"],
        "data/rejected_spans": summary["utterances"]["rejected_spans"],
        "data/hours": summary["hours"],
        "data/units": summary["units"],
        "data/units_per_s": summary["units_per_s"],
    }
    flat |= {f"data/rejected/{reason}": count for reason, count in summary["rows"]["reasons"].items()}
    for language, places in summary["by_language"].items():
        flat[f"data/hours/{language}"] = sum(place["hours"] for place in places.values())
        flat[f"data/units/{language}"] = sum(place["units"] for place in places.values())
        flat[f"data/utterances/{language}"] = sum(place["utterances"] for place in places.values())
    return flat


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _place(counts: Entry) -> dict[str, Any]:
    return {
        "utterances": counts["utterances"],
        "rejected": counts["rejected"],
        "rejected_spans": counts["rejected_spans"],
        "hours": round(counts["audio_s"] / 3600, 4),
        "frames": counts["frames"],
        "units": counts["units"],
        "units_per_s": round(counts["units"] / max(counts["audio_s"], 1e-9), 3),
        # Of what has a transcript: letters as an alphabet would write them, see data.filters.
        "characters_per_s": round(counts["characters"] / max(counts["transcribed_s"], 1e-9), 2),
    }

"""What the align job tells: rate while it runs, and at the end a table and metrics."""

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cslm.apps.job import Job
from cslm.data.ledger import Entry, add_counts

_METRICS_EVERY_S = 10.0


class Meter:
    """Audio seconds a second since the first result, on the progress line and in the tracking run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._started_s = self._logged_s = time.monotonic()
        self._audio_s = 0.0
        self._shards = 0

    def add(self, counts: Entry) -> str:
        """Count one shard; returns the note for the progress line."""
        self._audio_s += counts["audio_s"]
        self._shards += 1
        now = time.monotonic()
        if now - self._logged_s >= _METRICS_EVERY_S:
            self._logged_s = now
            self._job.run.log_metrics({"throughput/audio_s_per_s": self._rate(now)}, step=self._shards)
        return f"{self._rate(now):,.0f} audio s/s"

    def close(self) -> None:
        """Record the rate over all shards."""
        self._job.run.log_metrics({"throughput/audio_s_per_s": self._rate(time.monotonic())}, step=self._shards)

    def _rate(self, now: float) -> float:
        return self._audio_s / max(now - self._started_s, 1e-9)


def summarise(entries: Sequence[Entry], aligner: dict[str, Any], latency_s: float) -> dict[str, Any]:
    """The content of summary.json. Accepted and rejected utterances are all that were asked for."""
    empty: Entry = {"rows": 0, "accepted": 0, "rejected": 0, "reasons": {}, "audio_s": 0.0, "words": 0}
    empty |= {"silent_words": 0, "score_sum": 0.0}
    total = empty
    by_place: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        counts = {name: entry[name] for name in empty}
        total = add_counts(total, counts)
        places = by_place.setdefault(entry["language"], {})
        places[entry["split"]] = add_counts(places.get(entry["split"], empty), counts)
    assert total["accepted"] + total["rejected"] == total["rows"], total
    return {
        "rows": {
            "asked": total["rows"],
            "accepted": total["accepted"],
            "rejected": total["rejected"],
            "reasons": total["reasons"],
        },
        **_figures(total),
        "by_language": {
            language: {
                split: {"accepted": counts["accepted"], "rejected": counts["rejected"], **_figures(counts)}
                for split, counts in sorted(places.items())
            }
            for language, places in sorted(by_place.items())
        },
        "aligner": {"kind": aligner["kind"], "fingerprint": aligner["fingerprint"], "latency_s": latency_s},
    }


def show(job: Job, summary: dict[str, Any]) -> None:
    """Print the closing table."""
    table = Table("language", "split", title="alignments")
    for heading in ("utterances", "rejected", "hours", "words", "score"):
        table.add_column(heading, justify="right")
    for language, places in summary["by_language"].items():
        for split, place in places.items():
            if place["accepted"] or place["rejected"]:
                table.add_row(language, split, *_cells(place))
    table.add_section()
    table.add_row("all", "", *_cells({**summary, **summary["rows"]}))
    job.console.print(table)
    rows = summary["rows"]
    reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(rows["reasons"].items())) or "none"
    job.say(f"{rows['asked']:,} utterances = {rows['accepted']:,} aligned + {rows['rejected']:,} rejected ({reasons})")
    if summary["silent_words"]:
        job.say(f"{summary['silent_words']:,} words have no letter that the aligner knows, and so no time of their own")


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The summary as metrics."""
    flat = {
        "data/utterances": summary["rows"]["accepted"],
        "data/rejected": summary["rows"]["rejected"],
        "data/hours": summary["hours"],
        "data/words": summary["words"],
        "align/score": summary["score"],
        "align/latency_s": summary["aligner"]["latency_s"],
    }
    flat |= {f"data/rejected/{reason}": count for reason, count in summary["rows"]["reasons"].items()}
    for language, places in summary["by_language"].items():
        flat[f"data/utterances/{language}"] = sum(place["accepted"] for place in places.values())
    return flat


def _figures(counts: Entry) -> dict[str, Any]:
    return {
        "hours": round(counts["audio_s"] / 3600, 4),
        "words": counts["words"],
        "silent_words": counts["silent_words"],
        "score": round(counts["score_sum"] / max(counts["accepted"], 1), 3),
    }


def _cells(place: dict[str, Any]) -> list[str]:
    whole = [f"{place[name]:,}" for name in ("accepted", "rejected")]
    return [*whole, f"{place['hours']:.2f}", f"{place['words']:,}", f"{place['score']:.2f}"]

"""What the align job tells at its end: a table by language and split, metrics, and the content of summary.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cslm.apps.job import Job
from cslm.data.ledger import Entry, add_counts

_COUNTS = ("rows", "skipped", "accepted", "rejected", "reasons", "audio_s", "words", "silent_words", "score_sum")


def summarise(entries: Sequence[Entry], num_ids: int | None, aligner: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json. Accepted and rejected utterances are all that were asked for.

    `num_ids` are the utterances that the dialogues speak of, None where all utterances are asked for.
    """
    total: Entry = dict.fromkeys(_COUNTS, 0) | {"reasons": {}}
    by_place: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        counts = {name: entry[name] for name in _COUNTS}
        total = add_counts(total, counts)
        places = by_place.setdefault(entry["language"], {})
        places[entry["split"]] = add_counts(places.get(entry["split"], {}), counts)
    asked = total["rows"] - total["skipped"]
    assert total["accepted"] + total["rejected"] == asked, total
    assert sum(total["reasons"].values()) == total["rejected"], total["reasons"]
    document = {
        "rows": {
            "units": total["rows"],
            "asked": asked,
            "accepted": total["accepted"],
            "rejected": total["rejected"],
            "reasons": total["reasons"],
        },
        "words": total["words"],
        "silent_words": total["silent_words"],
        "hours": round(total["audio_s"] / 3600, 4),
        "score": _mean(total),
        "by_language": {
            language: {split: _place(counts) for split, counts in sorted(places.items())}
            for language, places in sorted(by_place.items())
        },
        "aligner": {name: aligner[name] for name in ("kind", "fingerprint", "latency_s", "latency_words")},
    }
    if num_ids is not None:
        document["rows"]["without_units"] = num_ids - asked
    return document


def show(job: Job, summary: dict[str, Any]) -> None:
    """Print the closing table."""
    table = Table("language", "split", title="alignments")
    for heading in ("utterances", "rejected", "hours", "words", "score"):
        table.add_column(heading, justify="right")
    for language, places in summary["by_language"].items():
        for split, place in places.items():
            table.add_row(language, split, *_cells(place, place["rejected"], place["utterances"]))
    rows = summary["rows"]
    table.add_section()
    table.add_row("all", "", *_cells(summary, rows["rejected"], rows["accepted"]))
    job.console.print(table)
    reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(rows["reasons"].items())) or "none"
    job.say(f"{rows['asked']:,} utterances = {rows['accepted']:,} aligned + {rows['rejected']:,} rejected ({reasons})")
    if rows["units"] > rows["asked"]:
        job.say(f"{rows['units'] - rows['asked']:,} more utterances of the units table were not asked for")
    if rows.get("without_units"):
        job.say(
            f"note: {rows['without_units']:,} of the answers in data.dialogues are not among these units: rejected "
            "when the corpus was tokenized, or of another language or split than is asked for"
        )
    if summary["silent_words"]:
        job.say(f"{summary['silent_words']:,} words have no letter that the aligner knows and so no length")


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The summary as metrics."""
    rows = summary["rows"]
    flat = {
        "data/rows": rows["asked"],
        "data/accepted": rows["accepted"],
        "data/rejected": rows["rejected"],
        "data/hours": summary["hours"],
        "data/words": summary["words"],
        "align/score": summary["score"],
        "align/latency_s": summary["aligner"]["latency_s"],
    }
    flat |= {f"data/rejected/{reason}": count for reason, count in rows["reasons"].items()}
    for language, places in summary["by_language"].items():
        accepted = sum(place["utterances"] for place in places.values())
        weighted = sum(place["score"] * place["utterances"] for place in places.values())
        flat[f"data/utterances/{language}"] = accepted
        flat[f"align/score/{language}"] = weighted / max(accepted, 1)
    return flat


def _cells(place: Mapping[str, Any], rejected: int, accepted: int) -> list[str]:
    return [
        f"{accepted:,}", f"{rejected:,}", f"{place['hours']:.2f}", f"{place['words']:,}", f"{place['score']:.2f}",
    ]  # fmt: skip


def _place(counts: Entry) -> dict[str, Any]:
    return {
        "utterances": counts["accepted"],
        "rejected": counts["rejected"],
        "hours": round(counts["audio_s"] / 3600, 4),
        "words": counts["words"],
        "score": _mean(counts),
    }


def _mean(counts: Entry) -> float:
    mean = counts["score_sum"] / max(counts["accepted"], 1)
    return round(float(mean), 4)

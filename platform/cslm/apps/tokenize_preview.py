"""What a corpus would give, before it is tokenized: a sample goes the whole way and speaks for all rows.

Nothing of the job's result is written. The canonical manifest is made and a missing tokenizer is fitted, and both stay,
as the run itself begins with them.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.table import Table

from cslm import cluster, storage
from cslm.apps import shard_pipeline
from cslm.apps.job import Job
from cslm.apps.tokenize_pipeline import TokenizerSection
from cslm.config import Section, setting
from cslm.data import manifest, recordings
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, add_counts
from cslm.data.units import tokenize_piece
from cslm.speech import tokenizer as speech

_PIECE_S = 300.0


class PricesSection(Section):
    """What an hour costs, in any currency, for the estimate of --dry_run."""

    cpu_hour: float | None = setting(None, "price of one CPU core for an hour", ge=0)
    gpu_hour: float | None = setting(None, "price of one GPU for an hour", ge=0)


def preview(
    job: Job,
    corpus: manifest.Manifest,
    described: dict[str, Any],
    *,
    num_rows: int,
    tokenizer: TokenizerSection,
    intake: Intake,
    prices: PricesSection,
) -> dict[str, Any]:
    """Tokenize about `num_rows` rows, spread over languages and splits, and show what all rows would give.

    The cluster must be connected. Writes `<output>/preview.json` and returns its content.
    """
    chosen = sample(corpus.shards, num_rows)
    on_gpu = shard_pipeline.device_of(tokenizer) == "cuda"
    job.say(
        f"dry run: {sum(map(len, chosen.values())):,} of {corpus.num_rows:,} rows, {'a GPU' if on_gpu else 'a CPU'}"
    )
    measure = _measure.options(**shard_pipeline.resources_of(tokenizer, on_gpu))
    with cluster.workers_faults():
        seen = ray.get(measure.remote(job.output, chosen, described, intake, "cuda" if on_gpu else "cpu"))
    document = project(corpus, chosen, seen, on_gpu=on_gpu, prices=prices)
    _show(job, document)
    storage.write_json(storage.join(job.output, "preview.json"), document)
    return document


def sample(shards: Sequence[Entry], num_rows: int, seed: int = 0) -> dict[str, list[int]]:
    """Positions of rows by shard name, about `num_rows` in all, each language and split by its share but never none.

    The same shards and seed give the same rows.
    """
    strata: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for shard in shards:
        strata[shard["language"], shard["split"]].append(shard)
    total = sum(shard["rows"] for shard in shards)
    chosen: dict[str, list[int]] = {}
    for number, (_, members) in enumerate(sorted(strata.items())):
        rng = np.random.default_rng([seed, number])
        ends = np.cumsum([shard["rows"] for shard in members])
        wanted = min(int(ends[-1]), max(1, round(num_rows * int(ends[-1]) / total)))
        # Whole neighbourhoods of a few shards would be quicker to read and would say little about the corpus.
        for place in np.sort(rng.choice(int(ends[-1]), wanted, replace=False)):
            which = int(np.searchsorted(ends, place, side="right"))
            chosen.setdefault(members[which]["name"], []).append(int(place - (ends[which] - members[which]["rows"])))
    return chosen


@ray.remote
def _measure(
    output: str, chosen: dict[str, list[int]], described: dict[str, Any], intake: Intake, device: str
) -> dict[str, Any]:
    """Counts by language, seconds of decoding and of the tokenizer, and bytes of the units as they would be stored."""
    shard_pipeline.one_thread_a_cpu()
    tokenizer = speech.load(described["kind"], storage.join(output, "tokenizer"), device)
    shards = {shard["name"]: shard for shard in manifest.load(output).shards}
    by_language: dict[str, Entry] = {}
    words: Counter[str] = Counter()
    tables = []
    decode_s = encode_s = 0.0
    for name, rows in chosen.items():
        table = manifest.read_shard(output, name).take(pa.array(rows))
        started_s = time.perf_counter()
        for piece, _ in recordings.decode_shard(table, tokenizer.sample_rate_hz, intake, _PIECE_S):
            decoded_s = time.perf_counter()
            units, _, counts = tokenize_piece(piece, tokenizer)
            decode_s += decoded_s - started_s
            started_s = time.perf_counter()
            encode_s += started_s - decoded_s
            language = shards[name]["language"]
            by_language[language] = add_counts(by_language.get(language, {}), counts)
            words[language] += sum(num_words(text) for text in units.column("text").to_pylist())
            tables.append(units)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    return {
        "by_language": by_language,
        "words": dict(words),
        "decode_s": decode_s,
        "encode_s": encode_s,
        "bytes": sink.getvalue().size,
    }


def num_words(text: str | None) -> int:
    """Words of a transcript: what spaces part, and each Han, kana or Thai character on its own."""
    if not text:
        return 0
    alone = sum(_stands_alone(character) for character in text)
    spaced = "".join(" " if _stands_alone(character) else character for character in text)
    return alone + len(spaced.split())


def _stands_alone(character: str) -> bool:
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\u0e00" <= character <= "\u0e7f"


def project(
    corpus: manifest.Manifest,
    chosen: dict[str, list[int]],
    seen: dict[str, Any],
    *,
    on_gpu: bool,
    prices: PricesSection,
) -> dict[str, Any]:
    """What the sample says about all rows: each language's rows count by its own part of the sample."""
    rows_of: Counter[str] = Counter()
    for shard in corpus.shards:
        rows_of[shard["language"]] += shard["rows"]
    languages: dict[str, dict[str, Any]] = {}
    reasons: Counter[str] = Counter(corpus.rejected)
    totals: Counter[str] = Counter()
    sampled_s = sum(counts["audio_s"] + counts["rejected_s"] for counts in seen["by_language"].values())
    for language, counts in sorted(seen["by_language"].items()):
        scale = rows_of[language] / counts["rows"]
        for reason, count in counts["reasons"].items():
            reasons[reason] += round(count * scale)
        languages[language] = {
            "rows": rows_of[language],
            "sampled": counts["rows"],
            "yield": counts["accepted"] / counts["rows"],
            "hours": counts["audio_s"] * scale / 3600,
            "units_per_s": counts["units"] / max(counts["audio_s"], 1e-9),
            "units_per_word": counts["units"] / seen["words"][language] if seen["words"][language] else None,
        }
        totals["accepted"] += round(counts["accepted"] * scale)
        totals["sampled"] += counts["rows"]
        totals["audio_s"] += counts["audio_s"] * scale
        totals["read_s"] += (counts["audio_s"] + counts["rejected_s"]) * scale
    growth = totals["read_s"] / max(sampled_s, 1e-9)
    decode_h, encode_h = seen["decode_s"] * growth / 3600, seen["encode_s"] * growth / 3600
    cpu_h, gpu_h = (decode_h, encode_h) if on_gpu else (decode_h + encode_h, 0.0)
    costs = [
        hours * price for hours, price in ((cpu_h, prices.cpu_hour), (gpu_h, prices.gpu_hour)) if price is not None
    ]
    accepted_s = sum(counts["audio_s"] for counts in seen["by_language"].values())
    return {
        "rows": {
            "manifest": corpus.num_rows,
            "sampled": totals["sampled"],
            "accepted": totals["accepted"],
            "rejected": corpus.num_rows - totals["accepted"],
            "reasons": dict(reasons),
        },
        "hours": totals["audio_s"] / 3600,
        "by_language": languages,
        "units_table_bytes": math.ceil(seen["bytes"] * totals["audio_s"] / max(accepted_s, 1e-9)),
        "cpu_hours": cpu_h,
        "gpu_hours": gpu_h,
        "cost": sum(costs) if costs else None,
    }


def _show(job: Job, document: dict[str, Any]) -> None:
    table = Table("language", title="what all rows would give, as the sample says")
    for heading in ("rows", "sampled", "taken", "hours", "units/s", "units/word"):
        table.add_column(heading, justify="right")
    for language, figures in document["by_language"].items():
        per_word = figures["units_per_word"]
        table.add_row(
            language, f"{figures['rows']:,}", f"{figures['sampled']:,}", f"{figures['yield']:.1%}",
            f"{figures['hours']:,.2f}", f"{figures['units_per_s']:.1f}", "-" if per_word is None else f"{per_word:.1f}",
        )  # fmt: skip
    job.console.print(table)
    rows = document["rows"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(rows["reasons"].items())) or "none"
    job.say(f"about {rows['accepted']:,} of {rows['manifest']:,} rows would be taken; rejected: {reasons}")
    job.say(
        f"units table about {_size(document['units_table_bytes'])}; about {document['cpu_hours']:,.2f} CPU-hours"
        + (f" and {document['gpu_hours']:,.2f} GPU-hours" if document["gpu_hours"] else "")
        + (f", cost about {document['cost']:,.2f}" if document["cost"] is not None else "")
        + ("" if document["cost"] is not None else "; give prices.cpu_hour and prices.gpu_hour for the cost")
    )


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"

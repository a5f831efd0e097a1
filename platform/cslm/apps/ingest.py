"""The ingest job: a text corpus -> the table `parallel_text` or `dialogues`, and `rejects` for every row not taken.

A job of its own beside tokenize: it needs no audio, no GPU and no Ray. One process reads the corpus as a stream, so
memory does not grow with it but for 32 bytes a row, by which ids and texts that come twice are found.
"""

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from rich.table import Table

from cslm import contracts, storage
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import fingerprint, group, setting
from cslm.data.texts import files, formats
from cslm.data.texts.collect import Collector
from cslm.data.texts.formats import Corpus
from cslm.data.texts.settings import FiltersSection, LanguagesSection, SourceSection, SplitsSection
from cslm.data.texts.tables import REJECTS, Staging
from cslm.errors import ContractError


class Config(JobConfig):
    """Settings of jobs/ingest.py."""

    source: SourceSection = group(SourceSection, "what to read")
    languages: LanguagesSection = group(LanguagesSection, "which languages the texts are in")
    splits: SplitsSection = group(SplitsSection, "which split a row goes to that names none")
    filters: FiltersSection = group(FiltersSection, "which rows are taken")
    rows_per_file: int = setting(50_000, "rows in a file of the tables, at most", ge=1)
    max_reject_fraction: float = setting(0.5, "the job fails when more of the rows are rejected", ge=0, le=1)
    dry_run: int = setting(0, "look at the first so many rows, tell what would become of them, write no table", ge=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("ingest", Config, ingest, argv)


def ingest(config: Config, job: Job) -> None:
    """Turn a text corpus into parallel_text or dialogues: every row ends in that table or in rejects."""
    corpus = formats.find(config.source, config.languages)
    if config.languages.both_directions and corpus.table != "parallel_text":
        job.say("note: languages.both_directions has no effect on dialogues")
    if config.dry_run:
        _preview(config, job, corpus)
        return
    made_from = config.model_dump(mode="json", include={"languages", "splits", "filters", "rows_per_file"})
    key = fingerprint([corpus.key, _name(config), made_from])
    job_key = [key, config.max_reject_fraction]
    if job.finished(job_key):
        return
    staging = Staging(job.output, key)
    counts = staging.made()
    if counts is None:
        job.say(f"{storage.absolute(config.source.path)}: {corpus.format}, {_megabytes(corpus):,.1f} MB")
        counts = _make(config, job, corpus, staging)
    else:
        job.say("the tables are made already")
    staging.publish()
    _close(config, job, corpus, counts, job_key)


def _make(config: Config, job: Job, corpus: Corpus, staging: Staging) -> dict[str, Any]:
    staging.begin()
    collector = _collector(config, corpus)
    table, rejects = (staging.writer(name, config.rows_per_file) for name in (corpus.table, REJECTS))
    started_s = time.monotonic()
    with job.progress("ingest", _megabytes(corpus), "MB") as progress:
        done = 0.0
        for rows, rejected in collector.chunks(formats.read(corpus, config.source, config.languages)):
            table.add(rows)
            rejects.add(rejected)
            read = sum(file.position for file in corpus.files) / 1e6
            progress.update(read - done, f"{collector.num_rows:,} rows")
            done = read
    if not collector.num_rows:
        raise ContractError(f"source.path: must hold rows, found none in {storage.absolute(config.source.path)}")
    for writer in (table, rejects):
        writer.close()
    counts = collector.counts()
    counts["rows_per_s"] = round(collector.num_rows / max(time.monotonic() - started_s, 1e-9), 1)
    staging.complete([table, rejects], counts)
    return counts


def _close(config: Config, job: Job, corpus: Corpus, counts: dict[str, Any], job_key: Any) -> None:
    uri = storage.absolute(config.source.path)
    summary = {"table": corpus.table, "source": {"uri": uri, "format": corpus.format, "key": corpus.key}, **counts}
    _show(job, summary)
    schema = contracts.load(corpus.table).schema
    rows = counts["rows"]
    job.run.log_input_table(uri, corpus.table, schema=schema, num_rows=rows["read"], digest=corpus.key)
    job.run.log_metrics(_metrics(counts))
    job.limit_rejects(
        rows["rejected"],
        rows["read"],
        config.max_reject_fraction,
        summary,
        rows="rows",
        remedy="mend the corpus or the settings and run again, or raise the limit to keep it",
    )
    job.complete(job_key, summary)


def _preview(config: Config, job: Job, corpus: Corpus) -> None:
    collector = _collector(config, corpus)
    stream = islice(formats.read(corpus, config.source, config.languages), config.dry_run)
    for _ in collector.chunks(stream):
        pass
    if not collector.num_rows:
        raise ContractError(f"source.path: must hold rows, found none in {storage.absolute(config.source.path)}")
    job.say(f"{corpus.format} -> {corpus.table}; the first {collector.num_rows:,} rows would become:")
    _show(job, {"table": corpus.table, **collector.counts()})
    for reason, message in sorted(collector.examples.items()):
        job.say(f"  {reason}, for example {message}")
    for row in collector.samples:
        job.say(f"{row['id']} ({row['split']})")
        if corpus.table == "parallel_text":
            lines = [(row[f"{side}_language"], row[side]) for side in ("source", "target")]
        else:
            lines = [(f"{turn['role']} {turn['language']}", turn["text"]) for turn in row["turns"]]
        for who, text in lines:
            job.say(f"  {who}: {text if len(text) <= 200 else text[:200] + ' ...'}")
    job.say("dry run: no table was written")


def _collector(config: Config, corpus: Corpus) -> Collector:
    return Collector(corpus.table, _name(config), config.languages, config.splits, config.filters)


def _name(config: Config) -> str:
    return config.source.name or files.stem(storage.absolute(config.source.path))


def _megabytes(corpus: Corpus) -> float:
    return sum(file.num_bytes for file in corpus.files) / 1e6


def _show(job: Job, summary: dict[str, Any]) -> None:
    table = Table("languages", "split", title=summary["table"])
    for heading in ("rows", "characters"):
        table.add_column(heading, justify="right")
    for language, splits in summary["by_language"].items():
        for split, count in splits.items():
            table.add_row(language, split, f"{count['rows']:,}", f"{count['characters']:,}")
    job.console.print(table)
    changes = ", ".join(f"{name} {count:,}" for name, count in summary["changes"].items()) or "none"
    job.say(f"texts brought to their normal form: {changes}")
    if summary.get("dropped_turns"):
        job.say(f"turns of users at the end, without an answer: {summary['dropped_turns']:,} dropped")
    if summary.get("joined_systems"):
        job.say(f"dialogues whose system text went in front of the first question: {summary['joined_systems']:,}")
    rows = summary["rows"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rows["reasons"].items()) or "none"
    job.say(f"{rows['read']:,} rows = {rows['accepted']:,} accepted + {rows['rejected']:,} rejected ({reasons})")


def _metrics(counts: dict[str, Any]) -> dict[str, float]:
    rows = counts["rows"]
    flat = {
        "data/rows": rows["read"],
        "data/accepted": rows["accepted"],
        "data/rejected": rows["rejected"],
        "data/written": counts["written"],
        "throughput/rows_per_s": counts["rows_per_s"],
    }
    flat |= {f"data/rejected/{reason}": count for reason, count in rows["reasons"].items()}
    flat |= {f"data/changed/{name}": count for name, count in counts["changes"].items()}
    for language, splits in counts["by_language"].items():
        flat[f"data/rows/{language}"] = sum(count["rows"] for count in splits.values())
        flat[f"data/characters/{language}"] = sum(count["characters"] for count in splits.values())
    return flat

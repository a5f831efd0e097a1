"""The align job: units, their audio and texts -> the tables `alignments` and `rejects`, every utterance in one of them.

A shard is a file of the units table. What is in the ledger is not done again; the aligner and its latency are settled
once, in `aligner.json`, before the first shard.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cslm import cluster, contracts, storage
from cslm.apps import align_pictures, align_pipeline, align_report, shard_progress
from cslm.apps.align_pipeline import AlignSection, DecodeSection, Work
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import alignments
from cslm.data.ledger import Entry, Ledger
from cslm.data.sources import units_folder
from cslm.errors import ConfigError, ContractError
from cslm.speech import aligners, words
from cslm.speech.aligned import LimitsSection
from cslm.speech.tokenizers import saved

ALIGNER = "aligner.json"
_TABLES = ("alignments", "rejects")


class DataSection(Section):
    """Which utterances are aligned."""

    units: str = setting(
        REQUIRED, "units table made by jobs/tokenize.py: its folder `units`, or the job's output folder"
    )
    dialogues: str | None = setting(
        None, "dialogues table: only the utterances that the assistant speaks in it are aligned; all when not given"
    )
    languages: tuple[str, ...] | None = setting(None, "BCP-47 tags of the languages to align; all when not given")
    splits: tuple[str, ...] | None = setting(None, "splits to align, of train, dev and test; all when not given")


class Config(JobConfig):
    """Settings of jobs/align.py."""

    data: DataSection = group(DataSection, "which utterances are aligned")
    align: AlignSection = group(AlignSection, "which aligner, and what its actors get")
    limits: LimitsSection = group(LimitsSection, "which alignments are taken")
    decode: DecodeSection = group(DecodeSection, "how audio is read and decoded")
    max_reject_fraction: float = setting(
        0.05, "the job fails when more of the utterances that are asked for are rejected", ge=0, le=1
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("align", Config, align, argv)


def align(config: Config, job: Job) -> None:
    """Find where each word of an utterance lies in its speech units: by CTC forced alignment of text and audio.

    Give data.units, the output of jobs/tokenize.py; its texts and its audio are found from there. The aligner is a
    recogniser: that of the units themselves where jobs/fit_tokenizer.py made their tokenizer, or any Hugging Face CTC
    model of these languages (--align.aligner FOLDER). Every utterance that is asked for ends in output.path/alignments
    or, with the reason, in output.path/rejects.
    """
    units = units_folder(config.data.units)
    if not storage.exists(units):
        raise ConfigError(f"data.units: must be a units table, found nothing at {units}; run jobs/tokenize.py first")
    described = _aligner(config, job.output, units)
    dialogues = storage.absolute(config.data.dialogues) if config.data.dialogues else None
    if dialogues and not storage.exists(dialogues):
        raise ConfigError(f"data.dialogues: must be a dialogues table, found nothing at {dialogues}")
    key = [
        described["fingerprint"],
        storage.listing_digest(units, ".parquet"),
        dialogues and storage.listing_digest(dialogues, ".parquet"),
        config.model_dump(mode="json", include={"data": {"languages", "splits"}, "limits": True}),
        config.align.latency_s,
        config.max_reject_fraction,
    ]
    if job.finished(key):
        return
    shards = alignments.shards(units, config.data.languages, config.data.splits)
    if not shards:
        raise ContractError(
            f"data.units: must have utterances of the languages and splits that are asked for, found none at {units}"
        )
    ids = _answers(dialogues)
    job.say(
        f"{sum(shard['rows'] for shard in shards):,} utterances in {len(shards):,} files"
        + (f", of which the {len(ids):,} answers in data.dialogues are asked for" if ids is not None else "")
    )
    for language in sorted({shard["language"] for shard in shards}):
        if told := words.notice(language):
            job.say(f"note: {told}")
    work = Work(units, job.output, ids, described, 0.0, config.limits)
    described = _with_latency(config, job, described, shards, work)
    work = Work(units, job.output, ids, described, described["latency_s"], config.limits)
    job.say(
        f"aligner {described['kind']} {described['fingerprint']}: a word's first symbol peaks "
        f"{1000 * described['latency_s']:.0f} ms after its beginning"
    )
    settings = [described["fingerprint"], described["latency_s"], config.limits.model_dump(mode="json")]
    asked = fingerprint(None if ids is None else ids.to_pylist())
    ledger = Ledger(job.output, fingerprint([*settings, asked]), tables=_TABLES, shard_of=alignments.shard_of)
    done = ledger.done(shards)
    ledger.begin(done)
    if done:
        job.say(f"{len(done):,} of {len(shards):,} files are done already")
    entries = list(done.values())
    pending = [shard for shard in shards if shard["name"] not in done]
    if pending:
        cluster.connect(config.cluster)
        _log_input(job, units, shards)
        entries += shard_progress.collect(
            align_pipeline.run(pending, work, config.align, config.decode),
            job,
            ledger,
            label="align",
            num_rows=sum(shard["rows"] for shard in shards),
            rows_done=sum(entry["rows"] for entry in entries),
        )
    _close(config, job, entries, ids, described, units, key)


def _aligner(config: Config, output: str, units: str) -> dict[str, Any]:
    """What describes the aligner. Raises ConfigError when the output holds alignments of another."""
    record = storage.join(output, ALIGNER)
    kept = storage.read_json(record) if storage.exists(record) else None
    if config.align.aligner:
        path = storage.absolute(config.align.aligner)
    else:
        path = storage.join(storage.parent(units), "tokenizer")
        beside = saved.describe(path)
        if beside is None or beside["kind"] != "learned":
            found = "no tokenizer there" if beside is None else f"one of kind {beside['kind']}"
            raise ConfigError(
                f"align.aligner: must be given unless the units' own tokenizer knows what is said (kind learned), "
                f"found {found} ({path}); give a folder of jobs/fit_tokenizer.py or a Hugging Face CTC model"
            )
    described = aligners.describe(path, config.align.adapters, kept)
    if kept and kept["fingerprint"] != described["fingerprint"]:
        raise ConfigError(
            f"align.aligner: must be the aligner {kept['fingerprint']} that made the alignments of this output, found "
            f"{described['fingerprint']} at {path}; give another output.path, or delete {output}"
        )
    return kept or described


def _answers(dialogues: str | None) -> pa.Array | None:
    if dialogues is None:
        return None
    found = alignments.answers(dialogues)
    if not found:
        raise ContractError(
            f"data.dialogues: must have answers that are spoken (turns of the assistant with audio), found none in "
            f"{dialogues}; leave it out to align all utterances"
        )
    return pa.array(found, pa.string())


def _with_latency(
    config: Config, job: Job, described: dict[str, Any], shards: Sequence[Entry], work: Work
) -> dict[str, Any]:
    """The aligner with its latency: the one given, or the one kept, or told from the audio now and kept."""
    if config.align.latency_s is not None:
        settled = {**described, "latency_s": config.align.latency_s, "latency_words": 0, "latency_given": True}
    elif "latency_s" in described and not described["latency_given"]:
        return described
    else:
        cluster.connect(config.cluster)
        latency_s, num_words = align_pipeline.latency(shards, work, config.align)
        if not num_words:
            job.say("note: too little speech to tell the aligner's latency from; give align.latency_s if you know it")
        settled = {**described, "latency_s": latency_s, "latency_words": num_words, "latency_given": False}
    storage.write_json(storage.join(job.output, ALIGNER), settled)
    return settled


def _log_input(job: Job, units: str, shards: Sequence[Entry]) -> None:
    job.run.log_input_table(
        units,
        "units",
        schema=contracts.load("units").schema,
        num_rows=sum(shard["rows"] for shard in shards),
        digest=fingerprint([shard["digest"] for shard in shards]),
    )


def _close(
    config: Config,
    job: Job,
    entries: Sequence[Entry],
    ids: pa.Array | None,
    described: dict[str, Any],
    units: str,
    key: Any,
) -> None:
    summary = align_report.summarise(entries, None if ids is None else len(ids), described)
    align_report.show(job, summary)
    job.run.log_metrics(align_report.metrics(summary))
    picture = align_pictures.samples(job.output, units)
    if picture is not None:
        job.run.log_figure(picture, "samples.png")
    job.limit_rejects(
        summary["rows"]["rejected"],
        summary["rows"]["asked"],
        config.max_reject_fraction,
        summary,
        rows="utterances",
        remedy="take another aligner or other limits, or raise max_reject_fraction",
    )
    job.complete(key, summary)

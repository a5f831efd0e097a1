"""The align job: units + audio + text -> the table `alignments`, with every utterance in it or in `rejects`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cslm import cluster, contracts, storage
from cslm.apps import align_pictures, align_pipeline, align_report
from cslm.apps.align_pipeline import ActorsSection
from cslm.apps.job import SUMMARY, Job, JobConfig, run_job
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import alignments, sources
from cslm.data.ledger import Entry, Ledger
from cslm.errors import ConfigError, CslmError
from cslm.speech import aligners
from cslm.speech import tokenizer as speech
from cslm.speech.aligned import LimitsSection
from cslm.speech.audio import Channels
from cslm.speech.words import notice

# What the aligner was when the output was begun, and how late it tells.
ALIGNER_FILE = "aligner.json"


class DataSection(Section):
    """What is aligned."""

    units: str = setting(REQUIRED, "units table: its folder `units`, or the output folder of jobs/tokenize.py")
    dialogues: str | None = setting(
        None, "align only the utterances that the assistant speaks in this dialogues table; all when not given"
    )
    languages: tuple[str, ...] | None = setting(None, "align these languages only")
    splits: tuple[str, ...] | None = setting(None, "align these splits only")
    channels: Channels = setting("mean", "what becomes of several channels, as when the units were made")


class AlignSection(Section):
    """The aligner."""

    aligner: str | None = setting(
        None,
        "folder of jobs/fit_tokenizer.py (its `tokenizer`), or a local Hugging Face CTC model; when not given the "
        "tokenizer that made the units, if it is a learned one",
    )
    adapters: dict[str, str] = setting(
        {}, "of a model of many languages (MMS) the adapter for each, as --align.adapters.en eng"
    )
    latency_s: float | None = setting(
        None, "how long after its beginning a symbol peaks; told from the corpus when not given", unit="s", ge=0, le=0.5
    )


class Config(JobConfig):
    """Settings of jobs/align.py."""

    data: DataSection = group(DataSection, "what is aligned")
    align: AlignSection = group(AlignSection, "the aligner")
    limits: LimitsSection = group(LimitsSection, "which alignments are taken")
    actors: ActorsSection = group(ActorsSection, "the workers that align")
    max_reject_fraction: float = setting(0.05, "the job fails when more of the utterances are rejected", ge=0, le=1)
    retry_rejected: bool = setting(False, "redo shards with rejected utterances, after their audio was mended")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("align", Config, align, argv)


def align(config: Config, job: Job) -> None:
    """Find when each word of a corpus is spoken, by CTC forced alignment of its units table's texts to its audio.

    What training needs to write answers in chunks of text and speech. Every utterance ends in `alignments` or in
    `rejects`. The same command again goes on where it was stopped.
    """
    units = sources.units_folder(config.data.units)
    shards = _shards(config, units)
    dialogues = _dialogues(config)
    given = _aligner_path(config, units)
    kept_path = storage.join(job.output, ALIGNER_FILE)
    kept: dict[str, Any] = storage.read_json(kept_path) if storage.exists(kept_path) else {}
    described = aligners.describe(given, config.align.adapters, kept.get("aligner"))
    work = [
        described["fingerprint"],
        config.align.latency_s,
        config.limits.model_dump(),
        config.data.channels,
        dialogues,
    ]
    key = [work, [[shard["name"], shard["digest"]] for shard in shards], config.max_reject_fraction]
    if not config.retry_rejected and job.finished(key):
        return
    job.say(f"{sum(shard['rows'] for shard in shards):,} utterances in {len(shards):,} files")
    for language in sorted({shard["language"] for shard in shards}):
        if told := notice(language):
            job.say(f"note: {told}")
    if not kept or kept["work"] != fingerprint(work):
        kept = {"work": fingerprint(work), "aligner": described, **_latency(config, job, shards, described)}
        storage.write_json(kept_path, kept)
    told = f"{kept['latency_s'] * 1000:.0f} ms"
    if kept["words"]:
        told += f", told from {kept['words']:,} words"
    job.say(f"aligner {described['kind']} {described['fingerprint']}, latency {told}")
    ledger = Ledger(
        job.output, fingerprint([work, kept["latency_s"]]), (alignments.TABLE, "rejects"), alignments.shard_name
    )
    done = ledger.done(shards)
    if config.retry_rejected:
        done = {name: entry for name, entry in done.items() if not entry["rejected"]}
    ledger.begin(done)
    pending = [shard for shard in shards if shard["name"] not in done]
    if done:
        job.say(f"{len(done):,} of {len(shards):,} files are done already")
    entries = list(done.values())
    if pending:
        cluster.connect(config.cluster)
        job.run.log_input_table(
            units, "units", schema=contracts.load("units").schema, num_rows=sum(shard["rows"] for shard in shards),
            digest=fingerprint(key),
        )  # fmt: skip
        entries += _align_shards(config, job, ledger, pending, kept, shards)
    _close(config, job, units, entries, kept, key)


def _shards(config: Config, units: str) -> list[Entry]:
    if not storage.is_folder(units):
        raise ConfigError(f"data.units: must be a units table, found nothing at {units}")
    shards = alignments.shards(units, config.data.languages, config.data.splits)
    if not shards:
        wanted = [*(config.data.languages or ()), *(config.data.splits or ())]
        raise ConfigError(
            f"data.units: must hold files{' of ' + ', '.join(wanted) if wanted else ''}, found none in {units}"
        )
    return shards


def _dialogues(config: Config) -> str:
    """A digest of the dialogues that choose the utterances, empty where all are aligned."""
    if config.data.dialogues is None:
        return ""
    path = storage.absolute(config.data.dialogues)
    if not storage.exists(path):
        raise ConfigError(f"data.dialogues: must be a table, found nothing at {path}")
    return storage.listing_digest(path, ".parquet")


def _aligner_path(config: Config, units: str) -> str:
    if config.align.aligner is not None:
        path = storage.absolute(config.align.aligner)
        # The output of the fitting job may be named as a whole.
        inner = storage.join(path, "tokenizer")
        return inner if speech.describe(path) is None and speech.describe(inner) is not None else path
    beside = storage.join(storage.parent(units), "tokenizer")
    described = speech.describe(beside)
    if described is None or described["kind"] != "learned":
        found = "none" if described is None else f"one of kind {described['kind']}"
        raise ConfigError(
            "align.aligner: required, as the tokenizer that made the units is no recogniser (must be of kind learned, "
            f"found {found} in {beside}); give a folder of jobs/fit_tokenizer.py or a local Hugging Face CTC model"
        )
    return beside


def _latency(config: Config, job: Job, shards: Sequence[Entry], described: dict[str, Any]) -> dict[str, Any]:
    if config.align.latency_s is not None:
        return {"latency_s": config.align.latency_s, "words": 0}
    cluster.connect(config.cluster)
    job.say("listening to a part of the corpus to tell the aligner's latency")
    latency_s, words = align_pipeline.calibrate(shards, described, config.actors, config.data.channels)
    return {"latency_s": latency_s, "words": words}


def _align_shards(
    config: Config, job: Job, ledger: Ledger, pending: Sequence[Entry], kept: dict[str, Any], shards: Sequence[Entry]
) -> list[Entry]:
    """Align the pending shards; returns their entries, which are in the ledger."""
    wanted = None
    if config.data.dialogues is not None:
        wanted = align_pipeline.answers_of(storage.absolute(config.data.dialogues))
    total, waiting = (sum(shard["rows"] for shard in some) for some in (shards, pending))
    meter = align_report.Meter(job)
    rows = {shard["name"]: shard["rows"] for shard in pending}
    results = align_pipeline.run(
        pending, ledger.output, kept["aligner"], wanted, config.actors,
        channels=config.data.channels, latency_s=kept["latency_s"], limits=config.limits,
    )  # fmt: skip
    recorded = []
    with ThreadPoolExecutor(8) as writers, job.progress("align", total, "utterances", total - waiting) as progress:
        for result in results:
            recorded.append(writers.submit(ledger.record, result["shard"], result["counts"]))
            progress.update(rows[result["shard"]["name"]], meter.add(result["counts"]))
            # An entry that could not be written ends the job now, not when all the work is done.
            for one in recorded:
                if one.done():
                    one.result()
    meter.close()
    return [one.result() for one in recorded]


def _close(config: Config, job: Job, units: str, entries: Sequence[Entry], kept: dict[str, Any], key: Any) -> None:
    summary = align_report.summarise(entries, kept["aligner"], kept["latency_s"])
    align_report.show(job, summary)
    job.run.log_metrics(align_report.metrics(summary))
    picture = align_pictures.samples(job.output, units, config.data.channels)
    if picture is not None:
        job.run.log_figure(picture, "samples.png")
    rows = summary["rows"]
    rejected = rows["rejected"] / max(rows["asked"], 1)
    if rejected > config.max_reject_fraction:
        storage.write_json(storage.join(job.output, SUMMARY), {"job": job.name, "status": "failed", **summary})
        raise CslmError(
            f"max_reject_fraction: at most {config.max_reject_fraction:.2%} of the utterances may be rejected, found "
            f"{rejected:.2%}; {storage.join(job.output, 'rejects')} says why for each. All else is written: mend what "
            "is wrong and run again with --retry_rejected true, or raise the limit"
        )
    job.complete(key, summary)

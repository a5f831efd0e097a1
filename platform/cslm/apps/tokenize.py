"""The tokenize job: a manifest -> the tables `units` and `rejects`, with every row of the manifest in one of them.

The driver sees counts only. It enters a shard in the ledger when the counts of all its pieces have come, and what is
in the ledger is not done again.
"""

from collections.abc import Sequence
from typing import Any

import ray

from cslm import cluster, contracts, storage
from cslm.apps import shard_pipeline, shard_progress, tokenize_pictures, tokenize_pipeline, tokenize_report
from cslm.apps.job import Job, JobConfig, run_job
from cslm.apps.tokenize_pipeline import DecodeSection, TokenizerSection
from cslm.apps.tokenize_preview import PricesSection, preview
from cslm.config import fingerprint, group, setting
from cslm.data import duplicates, manifest, recordings
from cslm.data.corpora import CorpusSection
from cslm.data.filters import FiltersSection
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, Ledger, add_counts
from cslm.errors import ConfigError, ContractError
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection, Waveform
from cslm.speech.segment import SegmentSection
from cslm.speech.tokenizers import KindSection

# What is made where the user brings nothing: it needs neither weights nor transcripts.
_DEFAULT_KIND = "kmeans"


class Config(JobConfig):
    """Settings of jobs/tokenize.py."""

    corpus: CorpusSection = group(CorpusSection, "what to tokenize")
    audio: AudioSection = group(AudioSection, "which recordings are taken")
    segment: SegmentSection = group(SegmentSection, "how long recordings without a transcript are split")
    filters: FiltersSection = group(FiltersSection, "which utterances are kept out of training")
    decode: DecodeSection = group(DecodeSection, "how audio is read and decoded")
    tokenizer: TokenizerSection = group(TokenizerSection, "which tokenizer, and what its actors get")
    max_reject_fraction: float = setting(0.05, "the job fails when more of the rows are rejected", ge=0, le=1)
    dry_run: int | None = setting(
        None, "tokenize so many rows only, spread over the corpus, and say what all of it would give", unit="rows", ge=1
    )
    prices: PricesSection = group(PricesSection, "what an hour costs, for the estimate of dry_run")
    retry_rejected: bool = setting(False, "redo shards with rejected rows, after their audio was mended")

    @property
    def intake(self) -> Intake:
        """What decides which audio is taken."""
        return Intake(self.audio, self.segment, self.filters)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("tokenize", Config, tokenize, argv)


def tokenize(config: Config, job: Job) -> None:
    """Turn a corpus of recordings into speech units: every row of the manifest ends in `units` or in `rejects`."""
    source = manifest.source_key(config.corpus)
    folder = storage.join(job.output, "tokenizer")
    kind_given = config.tokenizer.kind is not None
    config = _with_kind(config, folder)
    described = _known_tokenizer(config.tokenizer, folder)
    again = config.retry_rejected or config.dry_run
    if described and not again and job.finished(_job_key(config, source, described)):
        return
    corpus = manifest.prepare(config.corpus, job.output, key=source, on_rows=tokenize_report.RowCounter(job))
    rejected = sum(corpus.rejected.values())
    job.say(f"{corpus.num_rows:,} rows in {len(corpus.shards):,} shards, {rejected:,} rejected by the manifest")
    for notice in corpus.notices:
        job.say(f"note: {notice}")
    if not corpus.shards:
        raise ContractError(
            f"corpus.manifest: must have rows that can be taken, found {corpus.num_rows:,} rows and none of them can; "
            f"{storage.join(job.output, 'rejects')} says why for each"
        )
    if not described:
        if not kind_given:
            job.say(
                "note: no tokenizer is given, so k-means units of MFCC are made; jobs/fit_tokenizer.py learns better "
                "ones from transcripts"
            )
        described = _make_tokenizer(config, job, folder)
    job.say(
        f"tokenizer {described['kind']} {described['fingerprint']}: {described['codebook_size']:,} units at "
        f"{described['frame_rate_hz']:g} Hz"
    )
    if config.dry_run:
        cluster.connect(config.cluster)
        preview(
            job,
            corpus,
            described,
            num_rows=config.dry_run,
            tokenizer=config.tokenizer,
            intake=config.intake,
            prices=config.prices,
        )
        job.close("FINISHED")
        return
    ledger = Ledger(job.output, fingerprint([described["fingerprint"], config.intake.key()]))
    done = ledger.done(corpus.shards)
    if config.retry_rejected:
        done = {name: entry for name, entry in done.items() if not entry["rejected"]}
    ledger.begin(done)
    pending = [shard for shard in corpus.shards if shard["name"] not in done]
    if done:
        job.say(f"{len(done):,} of {len(corpus.shards):,} shards are done already")
    entries = list(done.values())
    if pending:
        cluster.connect(config.cluster)
        job.run.log_input_table(
            storage.absolute(config.corpus.manifest),
            "utterances",
            schema=contracts.load("utterances").schema,
            num_rows=corpus.num_rows,
            digest=corpus.key,
        )
        entries += _tokenize_shards(config, job, ledger, pending, described, sum(entry["rows"] for entry in entries))
    _close(config, job, corpus, entries, described, _job_key(config, source, described))


def _close(
    config: Config,
    job: Job,
    corpus: manifest.Manifest,
    entries: Sequence[Entry],
    described: dict[str, Any],
    key: Any,
) -> None:
    keep_first = config.filters.duplicate_audio
    moved = duplicates.remove(job.output, corpus.shards, described["codebook_size"], enabled=keep_first)
    entries = [add_counts(entry, moved.get(entry["shard"], {})) for entry in entries]
    summary = tokenize_report.summarise(corpus, entries, described)
    tokenize_report.show(job, summary)
    job.run.log_metrics(tokenize_report.metrics(summary))
    job.run.log_figure(tokenize_pictures.corpus(summary, entries, described), "corpus.png")
    samples = tokenize_pictures.samples(job.output, described, config.intake)
    if samples is not None:
        job.run.log_figure(samples, "samples.png")
    job.limit_rejects(
        summary["rows"]["rejected"],
        summary["rows"]["manifest"],
        config.max_reject_fraction,
        summary,
        rows="rows",
        remedy="mend the audio and run again with --retry_rejected true, or raise the limit",
    )
    job.complete(key, summary)


def _job_key(config: Config, source: str, described: dict[str, Any]) -> Any:
    return [
        source,
        described["fingerprint"],
        config.intake.key(),
        config.filters.duplicate_audio,
        config.max_reject_fraction,
    ]


def _with_kind(config: Config, folder: str) -> Config:
    """The settings with the tokenizer's kind in them: the one given, or that of the saved tokenizer, or k-means."""
    section = config.tokenizer
    if section.kind is not None:
        return config
    saved = (speech.describe(storage.absolute(section.path)) if section.path else None) or speech.describe(folder)
    kind = saved["kind"] if saved else _DEFAULT_KIND
    return config.model_copy(update={"tokenizer": section.model_copy(update={"kind": kind})})


def _known_tokenizer(section: TokenizerSection, folder: str) -> dict[str, Any] | None:
    """What describes the tokenizer of this output, None when it has to be made.

    Raises ConfigError when the output holds units of another tokenizer than the one asked for.
    """
    kind = section.settled_kind
    speech.check_kind(kind)
    path = storage.absolute(section.path) if section.path else None
    given = speech.describe(path) if path else None
    kept = speech.describe(folder)
    if given and given["kind"] != kind:
        raise ConfigError(f"tokenizer.kind: {path} holds a tokenizer of kind {given['kind']}, found {kind}")
    if kept is None and given is None:
        needed = [name for name in (section.section.needed if section.section else ()) if not _given(section, name)]
        if needed:
            raise ConfigError([f"tokenizer.{kind}.{name}: required, not given" for name in needed])
        return None
    if kept is None:
        # A damaged one is told here in a sentence, before it is copied, and not by an actor that cannot start.
        speech.verify(str(path))
        speech.copy(str(path), folder)
        return given
    remedy = f"units of two tokenizers never mix: give another output.path, or delete {storage.parent(folder)}"
    if given and given["fingerprint"] != kept["fingerprint"]:
        raise ConfigError(
            f"tokenizer.path: must hold the tokenizer {kept['fingerprint']} that made the units of this output, found "
            f"{given['fingerprint']} at {path}; {remedy}"
        )
    if not given:
        _check_made_like(section, kept, remedy)
    return kept


def _given(section: TokenizerSection, name: str) -> bool:
    return getattr(section.section, name) is not None


def _check_made_like(section: TokenizerSection, kept: dict[str, Any], remedy: str) -> None:
    """Raise ConfigError when the settings would make another tokenizer than the kept one."""
    found = {name: kept[name] for name in ("kind", "settings")}
    of_kind = section.section
    settings = of_kind.deciding() if of_kind else section.options
    alike = of_kind.agrees(kept["settings"]) if of_kind else settings == kept["settings"]
    if section.kind != kept["kind"] or not alike:
        wanted = {"kind": section.kind, "settings": settings}
        raise ConfigError(f"tokenizer: must be the one of this output, {found}, found {wanted}; {remedy}")
    source = of_kind.source if of_kind else None
    if source and not speech.same_source(kept, storage.absolute(source)):
        raise ConfigError(
            f"tokenizer.{section.kind}: must name the weights that the tokenizer of this output was made from, found "
            f"others at {source}; {remedy}"
        )


def _make_tokenizer(config: Config, job: Job, folder: str) -> dict[str, Any]:
    section = config.tokenizer
    audio_s = section.section.making_audio_s if section.section else 0.0
    job.say(f"making a {section.kind} tokenizer" + (f" on {audio_s:,.0f} s of audio" if audio_s else ""))
    cluster.connect(config.cluster)
    # Where relative paths hang from is known here, not in the worker.
    folders = [*([storage.absolute(section.path)] if section.path else []), folder]
    # Only networks that listen to the corpus are worth a GPU here.
    device = shard_pipeline.device_of(section) if section.section and section.section.source and audio_s else "cpu"
    resources = shard_pipeline.resources_of(section, on_gpu=device == "cuda")
    settings = section.section.located() if section.section else section.options
    made = _make.options(**resources).remote(config, job.output, settings, folders, device)
    # Meanwhile the tracking store is opened, which takes seconds.
    _ = job.run
    with cluster.workers_faults():
        described: dict[str, Any] = ray.get(made)
    return described


@ray.remote
def _make(
    config: Config, output: str, settings: KindSection | dict[str, Any], folders: Sequence[str], device: str
) -> dict[str, Any]:
    kind = config.tokenizer.settled_kind
    waveforms: list[Waveform] = []
    if isinstance(settings, KindSection) and settings.making_audio_s:
        rate_hz = speech.tokenizer_class(kind).sample_rate_hz
        seed = getattr(settings, "seed", 0)
        waveforms = recordings.sample(output, settings.making_audio_s, rate_hz, config.intake, seed)
    shard_pipeline.one_thread_a_cpu()
    tokenizer = speech.make(kind, settings, waveforms, device)
    for folder in folders:
        tokenizer.save(folder)
    return speech.describe(folders[-1]) or {}


def _tokenize_shards(
    config: Config,
    job: Job,
    ledger: Ledger,
    pending: Sequence[Entry],
    described: dict[str, Any],
    rows_done: int,
) -> list[Entry]:
    """Run the pending shards; returns their entries, which are in the ledger."""
    num_rows = rows_done + sum(shard["rows"] for shard in pending)
    results = tokenize_pipeline.run(
        pending, ledger.output, described, tokenizer=config.tokenizer, decode=config.decode, intake=config.intake
    )
    return shard_progress.collect(results, job, ledger, label="tokenize", num_rows=num_rows, rows_done=rows_done)

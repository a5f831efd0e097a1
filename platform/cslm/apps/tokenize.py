"""The tokenize job: a manifest -> the tables `units` and `rejects`, through Ray Data.

Shards of the canonical manifest flow through three steps: decoding on CPU tasks, the tokenizer in a pool of actors
that load it once, writing on CPU tasks. Between steps a piece of a shard is one row that holds its table as bytes,
which Ray cannot cut in two, so that each file is written by one task. The driver sees counts only, and enters a shard
in the ledger when the counts of all its pieces have come.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa
import ray

from cslm import cluster, contracts, storage
from cslm.apps import tokenize_report as report
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import Section, fingerprint, group, setting
from cslm.data import manifest, recordings
from cslm.data.corpus import CorpusSection
from cslm.data.ledger import Entry, Ledger, add_counts, write_piece
from cslm.data.units import tokenize_piece
from cslm.errors import ConfigError, CslmError
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection
from cslm.speech.tokenizers import KMeansSection


class TokenizerSection(Section):
    """Which tokenizer, and what its actors get."""

    kind: str = setting("kmeans", f"one of: {', '.join(speech.KINDS)}")
    path: str | None = setting(None, "saved tokenizer; where there is none one is fitted on the corpus and saved there")
    kmeans: KMeansSection = group(KMeansSection, "what a k-means tokenizer is fitted with")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where the cluster has GPUs at the start")
    num_cpus: float = setting(1.0, "logical CPUs of an actor", gt=0)
    num_gpus: float = setting(1.0, "GPUs of an actor on cuda; a fraction shares one", gt=0)
    min_actors: int = setting(1, "actors at the start", ge=1)
    max_actors: int | None = setting(None, "actors at most; half of the cluster's CPUs, or its GPUs, when not given")


class DecodeSection(Section):
    """How audio is read and decoded."""

    num_cpus: float = setting(1.0, "logical CPUs of a decoding task", gt=0)
    piece_s: float = setting(1200.0, "audio that a task hands to an actor at a time; bounds memory", unit="s", gt=0)


class TokenizeConfig(JobConfig):
    """Settings of jobs/tokenize.py."""

    corpus: CorpusSection = group(CorpusSection, "what to tokenize")
    audio: AudioSection = group(AudioSection, "which recordings are taken")
    decode: DecodeSection = group(DecodeSection, "how audio is read and decoded")
    tokenizer: TokenizerSection = group(TokenizerSection, "which tokenizer, and what its actors get")
    max_reject_fraction: float = setting(0.05, "the job fails when more of the rows are rejected", ge=0, le=1)
    retry_rejected: bool = setting(False, "redo shards with rejected rows, after their audio was mended")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("tokenize", TokenizeConfig, tokenize, argv)


def tokenize(config: TokenizeConfig, job: Job) -> None:
    """Turn a corpus of recordings into speech units: every row of the manifest ends in `units` or in `rejects`."""
    folder = storage.join(job.output, "tokenizer")
    known = _known_tokenizer(config.tokenizer, folder)
    source = manifest.source_key(config.corpus)
    if known and not config.retry_rejected and job.finished(_job_key(config, source, known)):
        return
    cluster.connect(config.cluster)
    corpus = manifest.prepare(config.corpus, job.output)
    for notice in corpus.notices:
        job.say(f"note: {notice}")
    job.say(f"{corpus.num_rows:,} rows in {len(corpus.shards):,} shards; rejected in the manifest: {corpus.rejected}")
    if not known:
        job.say(f"fitting a {config.tokenizer.kind} tokenizer on {config.tokenizer.kmeans.fit_audio_s:,.0f} s of audio")
        fit = _fit.remote(config, job.output, folder)
        job.run  # noqa: B018  opened meanwhile: the tracking store takes seconds to begin
        known = ray.get(fit)
    job.run.log_input_table(
        storage.absolute(config.corpus.manifest), "utterances", num_rows=corpus.num_rows, digest=corpus.key,
        schema=contracts.load("utterances").schema,
    )  # fmt: skip
    job.say(f"tokenizer {known['kind']} {known['fingerprint']}: {known['codebook_size']} units at "
            f"{known['frame_rate_hz']:g} Hz")  # fmt: skip
    ledger = Ledger(job.output, fingerprint([known["fingerprint"], config.audio.model_dump()]))
    done = ledger.done(corpus.shards)
    if config.retry_rejected:
        done = {name: entry for name, entry in done.items() if not entry["rejected"]}
    ledger.begin(done)
    pending = [shard for shard in corpus.shards if shard["name"] not in done]
    if done:
        job.say(f"going on: {len(done):,} of {len(corpus.shards):,} shards are done")
    entries = list(done.values()) + list(_tokenize_shards(config, job, ledger, pending, known, done))
    summary = report.summarise(corpus, entries, known)
    report.show(job, summary)
    job.run.log_metrics(report.metrics(summary))
    job.run.log_figure(report.figure(entries, known), "corpus.png")
    rejected = summary["rows"]["rejected"] / max(summary["rows"]["manifest"], 1)
    if rejected > config.max_reject_fraction:
        storage.write_json(storage.join(job.output, "summary.json"), {"job": "tokenize", "status": "failed", **summary})
        raise CslmError(
            f"max_reject_fraction: at most {config.max_reject_fraction:.1%} of the rows may be rejected, found "
            f"{rejected:.1%}; {storage.join(job.output, 'rejects')} says why for each. All else is written: mend the "
            "audio and run again with --retry_rejected true, or raise the limit"
        )
    job.complete(_job_key(config, source, known), summary)


def _job_key(config: TokenizeConfig, source: str, tokenizer: dict[str, Any]) -> Any:
    return [source, tokenizer["fingerprint"], config.audio.model_dump(), config.max_reject_fraction]


def _known_tokenizer(section: TokenizerSection, folder: str) -> dict[str, Any] | None:
    """What describes the tokenizer of this output, None when it has to be fitted.

    Raises ConfigError when the output holds units of another tokenizer than the one asked for.
    """
    speech.check_kind(section.kind)
    given_path = storage.absolute(section.path) if section.path else None
    given = speech.describe(given_path) if given_path else None
    kept = speech.describe(folder)
    remedy = f"give another output.path, or delete {storage.parent(folder)}"
    if kept is None:
        if given is None or given_path is None:
            if section.kind not in speech.FITTED:
                raise ConfigError(f"tokenizer.path: must hold a saved {section.kind} tokenizer, found {given_path}")
            return None
        speech.copy(given_path, folder)
        return given
    if given and given["fingerprint"] != kept["fingerprint"]:
        raise ConfigError(
            f"tokenizer.path: must hold the tokenizer {kept['fingerprint']} that made the units in this output, found "
            f"{given['fingerprint']}; units of two tokenizers never mix: {remedy}"
        )
    wanted = {"kind": section.kind, "settings": getattr(section, section.kind).model_dump(mode="json")}
    if not given and wanted != {name: kept[name] for name in wanted}:
        raise ConfigError(
            f"tokenizer: must be as the one in this output was fitted, {kept['kind']} with {kept['settings']}, found "
            f"{wanted['kind']} with {wanted['settings']}; {remedy}"
        )
    return kept


@ray.remote(num_cpus=1)
def _fit(config: TokenizeConfig, output: str, folder: str) -> dict[str, Any]:
    section = config.tokenizer
    settings = getattr(section, section.kind)
    tokenizer_class = speech.tokenizer_class(section.kind)
    rate_hz = tokenizer_class.sample_rate_hz
    waveforms = recordings.sample(output, settings.fit_audio_s, rate_hz, config.audio, settings.seed)
    tokenizer = tokenizer_class.fit(waveforms, settings)
    for path in [folder, *([storage.absolute(section.path)] if section.path else [])]:
        tokenizer.save(path)
    described = speech.describe(folder)
    assert described is not None
    return described


def _tokenize_shards(
    config: TokenizeConfig, job: Job, ledger: Ledger, pending: Sequence[Entry], tokenizer: dict[str, Any],
    done: dict[str, Entry],
) -> Iterator[Entry]:  # fmt: skip
    """Run the pending shards; yields the entry of each shard once it is in the ledger."""
    if not pending:
        return
    rows_done = sum(entry["rows"] for entry in done.values())
    rows = rows_done + sum(shard["rows"] for shard in pending)
    meter = report.Meter(job)
    pieces: dict[str, list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(8) as writers, job.progress("tokenize", rows, "utterances", rows_done) as progress:
        recorded: list[Future[Entry]] = []
        for result in _results(config, ledger.output, pending, tokenizer):
            shard, counts = pending[result["position"]], json.loads(result["counts"])
            progress.update(counts["rows"], meter.add(counts))
            arrived = pieces.setdefault(shard["name"], [])
            arrived.append(result | {"counts": counts})
            last = next((one["piece"] for one in arrived if one["last"]), None)
            if last is not None and len(arrived) == last + 1:
                total: dict[str, Any] = {}
                for one in pieces.pop(shard["name"]):
                    total = add_counts(total, one["counts"])
                recorded.append(writers.submit(ledger.record, shard, total))
        for future in recorded:
            yield future.result()


def _results(
    config: TokenizeConfig, output: str, pending: Sequence[Entry], tokenizer: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The Ray Data pipeline: one small row for each piece of a shard when its tables are written."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # A piece goes on as soon as it is there: without this Ray would gather pieces up to its target of 128 MB.
    context.target_max_block_size = 1 << 20
    section = config.tokenizer
    device = _device(section)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = max(1, int(resources.get("GPU", 0) / section.num_gpus) if device == "cuda" else int(resources["CPU"] / 4))
    actors = min(section.max_actors or most, len(pending))
    shards = ray.put(list(pending))
    decode: Any = _decode  # Ray's own types leave out functions that take `fn_args`
    write: Any = _write
    dataset = (
        ray.data.range(len(pending), override_num_blocks=len(pending))
        .map_batches(
            decode,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=config.decode.num_cpus,
            # What a piece takes with the copy that is handed on. That this step asks for other resources than the next
            # also keeps Ray from running both in the actors.
            memory=config.decode.piece_s * tokenizer["sample_rate_hz"] * 4 * 3,
            fn_args=(shards, output, tokenizer["sample_rate_hz"], config.audio, config.decode.piece_s),
        )
        .map_batches(
            _Tokenize,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(section.kind, storage.join(output, "tokenizer"), device),
            compute=ray.data.ActorPoolStrategy(min_size=min(section.min_actors, actors), max_size=actors),
            num_cpus=section.num_cpus,
            num_gpus=section.num_gpus if device == "cuda" else 0,
        )
        .map_batches(write, batch_size=None, batch_format="pyarrow", fn_args=(shards, output), num_cpus=0.25)
    )
    yield from dataset.iter_rows()


def _device(section: TokenizerSection) -> str:
    if section.device == "auto":
        return "cuda" if cluster.has_gpus() else "cpu"
    return section.device


def _decode(
    batch: pa.Table, shards: Any, output: str, sample_rate_hz: int, limits: AudioSection, piece_s: float
) -> Iterator[pa.Table]:
    listed = ray.get(shards)
    for position in batch.column("id").to_pylist():
        shard = manifest.read_shard(output, listed[position]["name"])
        for number, (piece, last) in enumerate(recordings.decode_shard(shard, sample_rate_hz, limits, piece_s)):
            yield _row(position=position, piece=number, last=last, table=_packed(piece))


class _Tokenize:
    """Pieces of audio -> their units, rejects and counts."""

    def __init__(self, kind: str, path: str, device: str) -> None:
        import torch

        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._tokenizer = speech.load(kind, path, device)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in _rows(batch):
            units, rejects, counts = tokenize_piece(_unpacked(row["table"]), self._tokenizer)
            yield _row(
                **{name: row[name] for name in ("position", "piece", "last")},
                units=_packed(units), rejects=_packed(rejects), counts=json.dumps(counts),
            )  # fmt: skip


def _write(batch: pa.Table, shards: Any, output: str) -> Iterator[pa.Table]:
    listed = ray.get(shards)
    for row in _rows(batch):
        units, rejects = _unpacked(row["units"]), _unpacked(row["rejects"])
        write_piece(output, listed[row["position"]], row["piece"], units, rejects)
        yield _row(**{name: row[name] for name in ("position", "piece", "last", "counts")})


def _row(**columns: Any) -> pa.Table:
    """A table of one row; buffers become binary values without a copy."""
    arrays = {}
    for name, value in columns.items():
        if isinstance(value, pa.Buffer):
            offsets = pa.py_buffer(bytes(8) + value.size.to_bytes(8, "little"))
            arrays[name] = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, value])
        else:
            arrays[name] = pa.array([value])
    return pa.table(arrays)


def _rows(batch: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of a batch; binary values stay in Arrow's memory."""
    for position in range(batch.num_rows):
        row = {}
        for name in batch.column_names:
            value = batch.column(name)[position]
            row[name] = value.as_buffer() if pa.types.is_large_binary(value.type) else value.as_py()
        yield row


def _packed(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpacked(data: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()

"""The generate job: a table of prompts -> the tables `responses` and `rejects`, every prompt in one of them."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cslm import cluster, contracts, storage
from cslm.apps import generate_pipeline, shard_progress
from cslm.apps.generate_pipeline import TABLES, Work
from cslm.apps.job import Job, JobConfig, run_job
from cslm.apps.shard_pipeline import ActorsSection
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import prompts
from cslm.data.ledger import Entry, Ledger, add_counts
from cslm.errors import ConfigError
from cslm.lm import vocabulary
from cslm.lm.sampling import Sampling
from cslm.lm.vocabulary import Vocabulary
from cslm.speech import decoder as speech_decoder
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection


class ModelSection(Section):
    """The model that is asked."""

    path: str = setting(REQUIRED, "folder of a trained model (output.path/model of pretrain or sft)")


class DataSection(Section):
    """What is asked."""

    prompts: str = setting(
        REQUIRED,
        "table of prompts: a JSONL or Parquet file, or a folder of Parquet, with the columns id, task, language, "
        "answer_language, text, units, audio (see schemas/prompts.yaml); audio is relative to the table",
    )


class SpeechSection(Section):
    """How audio becomes units and units become audio."""

    tokenizer: str | None = setting(None, "folder of the model's speech tokenizer; needed for prompts with audio")
    decoder: str | None = setting(None, "folder of a speech decoder of the same units: speech is also written as wav")
    speaker: str | None = setting(None, "whose voice the decoder speaks in; its default one when not given")


class GenerateSection(ActorsSection):
    """How prompts are laid over the cluster, and what an actor that holds the model gets."""

    batch_size: int = setting(64, "prompts that are decoded together", ge=1)
    rows_per_shard: int = setting(256, "prompts after which results are written and count as done", ge=1)


class Config(JobConfig):
    """Settings of jobs/generate.py."""

    model: ModelSection = group(ModelSection, "the model that is asked")
    data: DataSection = group(DataSection, "what is asked")
    sampling: Sampling = group(Sampling, "how answers are drawn, how long they may get, and their form")
    speech: SpeechSection = group(SpeechSection, "how audio becomes units and units become audio")
    audio: AudioSection = group(AudioSection, "which recordings are taken")
    generate: GenerateSection = group(GenerateSection, "how prompts are laid over the cluster")
    max_reject_fraction: float = setting(0.05, "the job fails when more of the prompts are rejected", ge=0, le=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("generate", Config, generate, argv)


def generate(config: Config, job: Job) -> None:
    """Ask a trained model what is in a table: recognise, read aloud, translate, answer in text and speech.

    A prompt names its task and gives text, units, or audio, which the model's speech tokenizer turns into units.
    Outputs are held to their task's form, so that every response can be read. They lie in output.path/responses and,
    with a speech decoder, output.path/audio; prompts that cannot be asked lie in output.path/rejects with the reason.
    """
    model = storage.absolute(config.model.path)
    layout, tokenizer, decoder = _inputs(config, model)
    source = storage.absolute(config.data.prompts)
    found = prompts.prepare(source, job.output, config.generate.rows_per_shard)
    prompts.require_readable(found, source)
    if found["spoken"] and tokenizer is None:
        raise ConfigError(
            f"speech.tokenizer: needed for the {found['spoken']} prompts with audio, not given; give the folder of the "
            f"tokenizer {layout.unit_tokenizer} (tokenizer/ beside the units that the model was trained on)"
        )
    settings = [
        storage.listing_digest(model),
        tokenizer and tokenizer["fingerprint"],
        decoder and decoder["fingerprint"],
        config.speech.speaker,
        config.sampling.model_dump(),
        config.audio.model_dump(),
    ]
    key = [found["key"], *settings, config.max_reject_fraction]
    if job.finished(key):
        return
    ledger = Ledger(job.output, fingerprint(settings), tables=TABLES)
    done = ledger.done(found["shards"])
    ledger.begin(done)
    if done:
        job.say(f"{len(done):,} of {len(found['shards']):,} shards are done already")
    entries = list(done.values())
    pending = [shard for shard in found["shards"] if shard["name"] not in done]
    if pending:
        cluster.connect(config.cluster)
        job.run.log_input_table(
            source, "prompts", schema=contracts.load("prompts").schema, num_rows=found["rows"],
            digest=found["key"],
        )  # fmt: skip
        work = Work(
            prompts=source,
            output=job.output,
            model=model,
            tokenizer=tokenizer,
            decoder=config.speech.decoder and storage.absolute(config.speech.decoder),
            speaker=config.speech.speaker,
            sampling=config.sampling,
            limits=config.audio,
            batch_size=config.generate.batch_size,
        )
        entries += shard_progress.collect(
            generate_pipeline.run(pending, work, config.generate),
            job,
            ledger,
            label="generate",
            num_rows=found["rows"] - found["rejected"],
            rows_done=sum(entry["rows"] for entry in entries),
            unit="prompts",
        )
    _close(config, job, entries, found, model, key)


def _inputs(config: Config, model: str) -> tuple[Vocabulary, dict[str, Any] | None, dict[str, Any] | None]:
    """The model's vocabulary, and what describes tokenizer and decoder. Raises ConfigError with all faults."""
    if not vocabulary.has_vocabulary(model):
        raise ConfigError(f"model.path: must be a trained model's folder, found no vocabulary at {model}")
    layout = vocabulary.load(model)
    faults = []
    tokenizer = decoder = None
    if config.speech.tokenizer:
        path = storage.absolute(config.speech.tokenizer)
        described = speech.describe(path)
        if described is None:
            faults.append(f"speech.tokenizer: must be a folder with a speech tokenizer, found none at {path}")
        elif described["fingerprint"] != layout.unit_tokenizer:
            faults.append(
                f"speech.tokenizer: must be the model's, {layout.unit_tokenizer}, found {described['fingerprint']} at "
                f"{path}"
            )
        else:
            tokenizer = {**described, "path": path}
    if config.speech.decoder:
        path = storage.absolute(config.speech.decoder)
        decoder = speech_decoder.describe(path)
        if decoder is None:
            faults.append(f"speech.decoder: must be a folder with a speech decoder, found none at {path}")
        elif decoder["tokenizer"] != layout.unit_tokenizer:
            faults.append(
                f"speech.decoder: must speak the units of the model's tokenizer, {layout.unit_tokenizer}, found one "
                f"for {decoder['tokenizer']} at {path}"
            )
        elif config.speech.speaker is not None and config.speech.speaker not in decoder["speakers"]:
            some = ", ".join(decoder["speakers"][:8])
            faults.append(
                f"speech.speaker: must be a voice of the decoder ({some} ...), found {config.speech.speaker!r}"
            )
    if faults:
        raise ConfigError(faults)
    return layout, tokenizer, decoder


def _close(
    config: Config, job: Job, entries: Sequence[Entry], found: dict[str, Any], model: str, key: list[Any]
) -> None:
    counts: Entry = {}
    for entry in entries:
        counted = {name: value for name, value in entry.items() if name not in ("shard", "language", "split", "key")}
        counts = add_counts(counts, counted)
    rejected = counts["rejected"] + found["rejected"]
    summary = {
        "rows": {"prompts": found["rows"], "responses": counts["accepted"], "rejected": rejected},
        "reasons": counts["reasons"],
        "tasks": counts["tasks"],
        "tokens": counts["tokens"],
        "units": counts["units"],
        "stopped_by_a_limit": counts["cut"],
        "audio_s": round(counts["audio_s"], 2),
        "model": model,
        "responses": storage.join(job.output, "responses"),
    }
    table = Table(title="responses", title_justify="left")
    table.add_column("task")
    table.add_column("prompts", justify="right")
    for task, number in sorted(counts["tasks"].items()):
        table.add_row(task, f"{number:,}")
    job.console.print(table)
    job.say(
        f"{counts['tokens']:,} tokens, of them {counts['units']:,} speech units; {counts['cut']:,} outputs met a "
        f"limit; {rejected:,} prompts rejected"
    )
    job.run.log_metrics(
        {
            "rows/accepted": counts["accepted"],
            "rows/rejected": rejected,
            "generate/tokens": counts["tokens"],
            "generate/units": counts["units"],
            "generate/cut_fraction": counts["cut"] / max(counts["accepted"], 1),
        }
    )
    job.limit_rejects(
        rejected,
        found["rows"],
        config.max_reject_fraction,
        summary,
        rows="prompts",
        remedy="mend the prompts, or raise the limit",
    )
    job.complete(key, summary)

"""What pre-training and fine-tuning share: tables -> start model -> packed rows -> trained model, as one job body."""

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cslm import cluster, gang, storage
from cslm.apps import training_checks, training_curves, training_preview, training_report
from cslm.apps.job import Job, JobConfig
from cslm.config import fingerprint, group, setting
from cslm.data import pack, sources
from cslm.errors import ConfigError
from cslm.lm import model as lm_model
from cslm.lm import prompts
from cslm.lm.model import ModelSection
from cslm.speech import tokenizer as speech
from cslm.train import deepspeed_file
from cslm.train.loop import TrainSection, workers
from cslm.train.zero import DeepSpeedSection

_MOST_CHARACTERS = 50_000_000


class TrainingConfig(JobConfig):
    """The sections of every job that trains the language model."""

    data: sources.DataSection = group(sources.DataSection, "the tables that training reads and how they become rows")
    model: ModelSection = group(ModelSection, "the model that training starts from")
    train: TrainSection = group(TrainSection, "steps, batches, learning rate and workers")
    deepspeed: DeepSpeedSection = group(DeepSpeedSection, "sharding and precision")
    preview: int | None = setting(
        None, "show this many examples as the model sees them, of every group some, and stop: nothing is trained", ge=1
    )


def run_training(config: TrainingConfig, job: Job, tasks: Sequence[str]) -> None:
    """Bring the output folder to a trained model; what an interrupted run finished is kept."""
    training_checks.check(config, tasks)
    document = deepspeed_file.read(config.deepspeed.config_path)
    rows, micro = deepspeed_file.batch_sizes(
        document,
        rows_per_step=config.train.rows_per_step,
        micro_batch_rows=config.train.micro_batch_rows,
        world_size=workers(config.train.num_workers)[1],
    )
    sizes = {"rows_per_step": rows, "micro_batch_rows": micro}
    config = config.model_copy(update={"train": config.train.model_copy(update=sizes)})
    units = _units_facts(config.data)
    start = storage.join(job.output, "start")
    if config.preview:
        tokenizer, layout = lm_model.reader(
            start, config.model, texts=lambda: corpus_texts(config.data), **_layout_facts(units)
        )
        training_preview.show(job.console, config.data, tasks, tokenizer, layout, config.preview)
        return
    key = _key(config, units, tasks, document)
    if job.finished(key):
        return
    for note in training_checks.without_effect(config, tasks):
        job.say(note)
    cluster.connect(config.cluster)
    use_gpu = gang.on_gpus(config.train.device, config.train)
    for line in deepspeed_file.tell(document, on_cpu=not use_gpu) if document is not None else []:
        job.say(f"{job.name}: {line}")
    job.say(f"{job.name}: preparing the model ({config.model.path or 'a new ' + config.model.shape})")
    layout = lm_model.prepare(
        start,
        config.model,
        texts=lambda: corpus_texts(config.data),
        **_layout_facts(units),
        codebook=lambda: speech.load(units["kind"], sources.tokenizer_folder(config.data)).codebook,
        seed=config.train.seed,
    )
    initialised_by = lm_model.initialised_by(start)
    if initialised_by is None and "initialisation" in config.model.model_fields_set:
        job.say("model.initialisation has no effect: the model has its units already")
    job.run.log_params({"model.initialised_by": initialised_by or "kept"})
    packed = storage.join(job.output, "packed")
    stats = pack.build(config.data, tasks, start, packed, seed=config.train.seed)
    num_steps = config.train.max_steps or math.ceil(
        stats["num_rows"] * config.train.epochs / config.train.rows_per_step
    )
    training_report.tell_epoch(job, stats, num_steps, config.train.rows_per_step)
    _log_inputs(config.data, job, storage.read_json(f"{packed}_sizes.json")["files"])
    job.run.log_input_table(
        packed, "packed", schema=pa.schema([]), num_rows=stats["num_rows"], digest=stats["fingerprint"]
    )
    evaluation = _held_out(config, job, tasks, start)
    # What a checkpoint must share with this run to be continued.
    identity = {"vocabulary": layout.hash, "packed": stats["fingerprint"], "training": _identity(config, document)}
    from cslm.train import checkpoint, trainer

    result = trainer.run(
        {
            "train": config.train.model_dump(),
            "deepspeed": config.deepspeed.model_dump(),
            "deepspeed_file": document,
            "lora": config.model.lora.model_dump(),
            "start_model": start,
            "chain": _chain_taught(config.data, tasks),
            "packed": packed,
            "row_length": config.data.row_length,
            "output": job.output,
            "num_steps": num_steps,
            "identity": identity,
            "tracking": job.run.handle,
            "evaluation": evaluation,
            "base_model": config.model.path or f"a new model of the shape {config.model.shape}",
        },
        use_gpu=use_gpu,
    )
    training_report.show_losses(job, result)
    job.run.log_metrics({f"final/loss/{name}": value for name, value in result["loss_last"].items()})
    training_curves.draw(job, list(result["loss_last"]))
    kept = {step: checkpoint.step_folder(job.output, step) for step in checkpoint.complete_steps(job.output)}
    training_report.log_models(job, result, kept, storage.join(job.output, "model"))
    summary = {**result, "model": storage.join(job.output, "model"), "vocabulary": layout.hash, "packed": stats}
    summary |= {"initialised_by": initialised_by}
    job.complete(key, summary)


def _chain_taught(section: sources.DataSection, tasks: Sequence[str]) -> dict[str, Any] | None:
    """How the model learns to answer, None where it sees no spoken answers; noted beside it for those who ask it."""
    weights = section.weights.model_dump()
    answers = any(task in tasks and weights[task] > 0 for task in ("answer", "s2st"))
    return section.chain.model_dump() if answers else None


def _log_inputs(section: sources.DataSection, job: Job, counted: Sequence[dict[str, Any]]) -> None:
    """Record the tables that rows are made of, by the digests of their listings.

    `counted` are the rows of the files that the split may lie in; the rows of alignments nobody counts.
    """
    tables = dict(sources.tables_of(sources.resolved(section)))
    if section.alignments:
        tables["alignments"] = sources.alignments_folder(section.alignments)
    for name, uri in tables.items():
        files = storage.list_files(uri, ".parquet") if storage.is_folder(uri) else [uri]
        schema, _ = storage.parquet_schema(files[0]) if files else (pa.schema([]), 0)
        digest = storage.listing_digest(uri, ".parquet")
        rows = [one["rows"] for one in counted if one["table"] == name]
        num_rows = sum(rows) if rows else None
        job.run.log_input_table(uri, name, schema=schema.remove_metadata(), num_rows=num_rows, digest=digest)


def _held_out(config: TrainingConfig, job: Job, tasks: Sequence[str], start: str) -> dict[str, Any] | None:
    """Pack the rows of the held-out split; None when none is named."""
    split = config.train.evaluation.split
    if split is None:
        return None
    data, packed = config.data.model_copy(update={"split": split}), storage.join(job.output, "packed_evaluation")
    stats = pack.build(data, tasks, start, packed, seed=config.train.seed)
    job.say(f"held out: {stats['num_rows']:,} rows of the split {split}")
    job.run.log_input_table(
        packed, "packed_evaluation", schema=pa.schema([]), num_rows=stats["num_rows"], digest=stats["fingerprint"]
    )
    return {"packed": packed, "num_rows": stats["num_rows"]}


def corpus_texts(section: sources.DataSection) -> list[str]:
    """Texts to train a text tokenizer on: the distinct ones of the tables, sorted, and the prompts around them.

    Prompts stand in every example, so they are given a weight of a tenth of the corpus. Of a large corpus the first
    files of every folder, so of every language, are enough: no more than _MOST_CHARACTERS of each table.
    """
    section = sources.resolved(section)
    uris = sources.tables_of(section)
    texts: set[str] = set()
    for table, uri in uris.items():
        characters = 0
        for file in _in_turn(sources.files_of(table, uri, section.split)):
            found = set(_texts_of(table, uri, file, section.split)) - texts
            texts |= found
            characters += sum(map(len, found))
            if characters > _MOST_CHARACTERS:
                break
    framing = prompts.framing_texts(_languages(section))
    weight = 1 + len(texts) // (10 * len(framing))
    return sorted(text for text in texts if text) + framing * weight


def _texts_of(table: str, uri: str, file: str, split: str) -> Iterator[str]:
    columns = {
        "units": ("text", "split"),
        "parallel_text": ("source", "target", "split"),
        "dialogues": ("turns", "split"),
    }
    rows = storage.parquet_schema(file)[1]
    for row in sources.read(sources.Piece(table, uri, file, 0, rows), split, columns[table]).to_pylist():
        if table == "dialogues":
            yield from (turn["text"] for turn in row["turns"])
        else:
            yield from (row[column] for column in columns[table][:-1] if row[column])


def _in_turn(entries: Sequence[storage.Entry]) -> list[str]:
    """Files, the first of every folder before the second of any."""
    folders: dict[str, list[str]] = {}
    for entry in entries:
        folders.setdefault(storage.parent(entry.uri), []).append(entry.uri)
    return [file for files in zip_longest(*folders.values()) for file in files if file is not None]


def _languages(section: sources.DataSection) -> list[str]:
    """The languages of the units: by the names of their folders, or by their rows where no folder says it."""
    found: set[str] = set()
    for entry in sources.files_of("units", section.units, section.split):
        named = [part for part in entry.uri.removeprefix(section.units).split("/") if part.startswith("language=")]
        column = [] if named else pc.unique(storage.read_rows(entry.uri, ["language"]).column("language")).to_pylist()
        found |= {part.removeprefix("language=") for part in named} | set(column)
    return sorted(found)


def _units_facts(section: sources.DataSection) -> dict[str, Any]:
    """The tokenizer that made a units table, its frame rate and codebook size, by the first row of its first file.

    That the other files agree is seen when they are counted.
    """
    folder = sources.units_folder(section.units)
    files = storage.list_files(folder, ".parquet") if storage.is_folder(folder) else [folder]
    first = [storage.read_rows(file, ["tokenizer", "frame_rate_hz"], 0, 1) for file in files[:1]]
    if not first or not first[0].num_rows:
        raise ConfigError(f"data.units: must hold utterances, found none in {folder}")
    home = sources.tokenizer_folder(section)
    described = speech.describe(home)
    if described is None:
        raise ConfigError(f"data.units: its tokenizer must lie beside the table, found none in {home}")
    row = first[0].to_pylist()[0]
    return {**row, "num_units": int(described["codebook_size"]), "kind": described["kind"]}


def _layout_facts(units: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_units": units["num_units"],
        "unit_tokenizer": units["tokenizer"],
        "frame_rate_hz": units["frame_rate_hz"],
    }


def _identity(config: TrainingConfig, document: dict[str, Any] | None) -> str:
    """Fingerprint of the settings that change what is learned step by step."""
    steps = {"max_steps", "epochs"}
    # These change how and where the same numbers are computed, and what is kept of them.
    harmless = {
        *("log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "keep_best", "max_failures"),
        *("device", "num_workers", "resize_every_s", "micro_batch_rows", "compute", "ema_decay"),
        *gang.SETTINGS,
        *("guard", "evaluation"),
    }
    sharding = {"zero_stage", "offload", "offload_parameters", "nvme_path", "config_path"}
    return fingerprint(
        [
            config.train.model_dump(exclude=harmless | steps),
            config.deepspeed.model_dump(exclude=sharding),
            config.model.model_dump(exclude={"path"}),
            # Another start model is another training, wherever it lies.
            config.model.path and storage.listing_digest(storage.absolute(config.model.path)),
            document,
        ]
    )


def _key(
    config: TrainingConfig, units: dict[str, Any], tasks: Sequence[str], document: dict[str, Any] | None
) -> list[Any]:
    """What makes a finished result the result of this command."""
    inputs = [storage.listing_digest(sources.units_folder(config.data.units), ".parquet")]
    alignments = config.data.alignments and sources.alignments_folder(config.data.alignments)
    for path in (alignments, config.data.parallel_text, config.data.dialogues):
        inputs.append(storage.listing_digest(storage.absolute(path), ".parquet") if path else "")
    if config.model.path:
        inputs.append(storage.listing_digest(storage.absolute(config.model.path)))
    plain = config.model_dump(include={"data", "model", "train", "deepspeed"}, exclude={"train": gang.SETTINGS})
    return [plain, units, inputs, list(tasks), document]

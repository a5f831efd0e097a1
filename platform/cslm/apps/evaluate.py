"""Evaluation on held-out data: how well the model hears, and how often its answers are right."""

import json
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import ray.data
from rich.table import Table

from cslm import cluster, storage
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import REQUIRED, Section, group, setting
from cslm.data import sources
from cslm.errors import ConfigError
from cslm.evaluate import tasks
from cslm.lm import vocabulary


class ModelSection(Section):
    """The model that is asked."""

    path: str = setting(REQUIRED, "folder of a trained model (output.path/model of pretrain or sft)")


class DataSection(Section):
    """The held-out tables."""

    units: str | None = setting(None, "units table: its folder `units`, or the tokenize job's output folder")
    dialogues: str | None = setting(None, "dialogues table with accepted answers; without it only hearing is measured")
    split: str = setting("test", "split that is measured")


class EvaluateSection(Section):
    """How much is asked, and by how many workers."""

    max_utterances: int = setting(200, "utterances to recognise of each language, at most", ge=0)
    max_questions: int = setting(100, "questions to answer of each pair of languages, at most", ge=0)
    max_new_tokens: int = setting(512, "longest output, the speech of an answer included", unit="tokens", ge=1)
    batch_size: int = setting(64, "items a worker decodes together", ge=1)
    num_workers: int = setting(2, "models that work side by side (one GPU each, or one CPU core each)", ge=1)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to decode; auto takes GPUs where there are any")


class Config(JobConfig):
    """Settings of the evaluation."""

    model: ModelSection = group(ModelSection, "the model that is asked")
    data: DataSection = group(DataSection, "the held-out tables")
    evaluate: EvaluateSection = group(EvaluateSection, "how much is asked")


def body(config: Config, job: Job) -> None:
    """Measures a trained model on held-out speech by greedy decoding.

    Recognition: character and word error rate for each language. Spoken questions: share of right answers for each
    pair of languages, and the error of the question as the model wrote it down. Every output is kept in predictions/.
    """
    model_folder, units, dialogues = _inputs(config)
    measured = config.model_dump(
        include={"data": True, "evaluate": {"max_utterances", "max_questions", "max_new_tokens"}}
    )
    tables = [storage.listing_digest(uri, ".parquet") for uri in (units, dialogues) if uri]
    key = [measured, storage.listing_digest(model_folder), tables]
    if job.finished(key):
        return
    section = config.evaluate
    items = tasks.recognition_items(units, config.data.split, section.max_utterances)
    tasks.require_same_units(items, vocabulary.load(model_folder), "data.units")
    if dialogues:
        items += tasks.answer_items(dialogues, units, config.data.split, section.max_questions)
    if not items:
        raise ConfigError(f"data.split: must name a split with items, found none in {config.data.split}")
    cluster.connect(config.cluster)
    use_gpu = section.device == "cuda" or (section.device == "auto" and cluster.has_gpus())
    predictions = _ask(items, section, model_folder, use_gpu, job)
    storage.write_table(predictions.sort_by([("task", "ascending"), ("id", "ascending")]), _predictions_path(job))
    metrics, counts = tasks.metrics_of(predictions)
    _show(job, metrics, counts)
    job.run.log_metrics({f"eval/{name}": value for name, value in metrics.items()})
    rounded = {name: round(value, 5) for name, value in metrics.items()}
    job.complete(key, {"metrics": rounded, "counts": counts, "model": model_folder, "split": config.data.split})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    return run_job("evaluate", Config, body, argv)


def _inputs(config: Config) -> tuple[str, str, str | None]:
    faults = []
    model_folder = storage.absolute(config.model.path)
    if not vocabulary.has_vocabulary(model_folder):
        faults.append(f"model.path: must be a trained model's folder, found no vocabulary at {model_folder}")
    if config.data.units is None or not storage.exists(storage.absolute(config.data.units)):
        faults.append(f"data.units: must be a units table, found {config.data.units}")
    dialogues = storage.absolute(config.data.dialogues) if config.data.dialogues else None
    if dialogues and not storage.exists(dialogues):
        faults.append(f"data.dialogues: must be a table, found nothing at {dialogues}")
    if faults:
        raise ConfigError(faults)
    return model_folder, sources.units_folder(config.data.units or ""), dialogues


def _ask(items: list[tasks.Item], section: EvaluateSection, model_folder: str, use_gpu: bool, job: Job) -> pa.Table:
    """All predictions, made by an actor pool. Items of like prompt length lie together, so batches are even."""
    order = sorted(range(len(items)), key=lambda place: (items[place]["table"], _size(items[place])))
    batches = [order[start : start + section.batch_size] for start in range(0, len(order), section.batch_size)]
    results = (
        ray.data.from_items([{"items": json.dumps([items[place] for place in batch])} for batch in batches])
        .repartition(len(batches))
        .map_batches(
            _AskStep,
            fn_constructor_args=(model_folder, "cuda" if use_gpu else "cpu", section.max_new_tokens),
            batch_size=None,
            batch_format="pyarrow",
            num_gpus=1 if use_gpu else 0,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=section.num_workers, initial_size=section.num_workers
            ),
        )
    )
    tables = []
    with job.progress("evaluate", len(items), "items") as progress:
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(table, pa.Table)
            tables.append(table)
            progress.update(table.num_rows)
    return pa.concat_tables(tables)


class _AskStep:
    """An examiner as a Ray Data step: rows of items in, predictions out."""

    def __init__(self, model_folder: str, device: str, max_new_tokens: int) -> None:
        self._examiner = tasks.Examiner(model_folder, device, max_new_tokens, num_threads=1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._examiner([item for items in batch.column("items").to_pylist() for item in json.loads(items)])


def _size(item: tasks.Item) -> int:
    return len(item["row"]["units"]) if item["table"] == "units" else sum(map(len, item["units"].values()))


def _predictions_path(job: Job) -> str:
    return storage.join(job.output, "predictions", "part-00000.parquet")


def _show(job: Job, metrics: dict[str, float], counts: dict[str, int]) -> None:
    table = Table(title="held-out, greedy decoding", title_justify="left")
    for column in ("measure", "value", "items"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.1%}", str(counts[name.rpartition("/")[0]]))
    job.console.print(table)

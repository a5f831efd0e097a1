"""Builds the packed table: tables in, training rows out, by Ray Data, once for each (data, settings).

Examples are dealt to buckets by a hash of their ids, and each bucket is packed on its own. The result is the same
for any number of workers, and no process ever holds more than one bucket. Examples wait for their bucket in Parquet
files whose row groups are the buckets: Ray's own shuffle would hold a CPU for each of its aggregators, which a small
cluster does not have.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from cslm import contracts, storage
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.errors import ConfigError
from cslm.lm import packing, text_tokenizer, vocabulary
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken
from cslm.lm.examples import Example, ExampleBuilder, groups_of

STATS = "stats.json"
_EXAMPLES_PER_BUCKET = 4096


class TaskWeights(Section):
    """How often each example of a task is seen in one epoch; 0.5 takes a fixed half, 2 takes each twice."""

    asr: float = setting(1.0, "speech -> its transcript", ge=0)
    tts: float = setting(1.0, "transcript -> speech", ge=0)
    mt: float = setting(1.0, "text -> its translation", ge=0)
    text: float = setting(1.0, "text question -> text answer", ge=0)
    answer: float = setting(1.0, "spoken question -> text question, text answer, spoken answer", ge=0)


class DataSection(Section):
    """The tables that training reads and how they become rows."""

    units: str = setting(
        REQUIRED, "units table made by jobs/tokenize.py: its folder `units`, or the job's output folder"
    )
    parallel_text: str | None = setting(None, "parallel_text table")
    dialogues: str | None = setting(None, "dialogues table")
    row_length: int = setting(1024, "length of a packed training row", unit="tokens", ge=16)
    weights: TaskWeights = group(TaskWeights, "how often each task's examples are seen in one epoch")
    split: str = setting("train", "split that is trained on")


def units_folder(path: str) -> str:
    """The units table itself, given either its folder or the output folder of the tokenize job."""
    absolute = storage.absolute(path)
    inner = storage.join(absolute, "units")
    return inner if storage.is_folder(inner) else absolute


def build(section: DataSection, tasks: Sequence[str], model_folder: str, output: str, *, seed: int) -> dict[str, Any]:
    """Write packed rows to `output` and return their statistics; a table that is there already is kept.

    `tasks` are the fields of `TaskWeights` to build. Raises ConfigError when the tables hold no example at all.
    """
    section = _resolved(section)
    weights = {task: weight for task, weight in section.weights.model_dump().items() if task in tasks and weight > 0}
    jobs, num_rows = _inputs(section, weights)
    if not jobs:
        raise ConfigError(f"data: the tables must hold rows of the split {section.split}, found none")
    layout = vocabulary.load(model_folder)
    key = fingerprint([[job["key"] for job in jobs], weights, section.row_length, section.split, layout.hash, seed])
    done = storage.join(output, STATS)
    if storage.exists(done) and storage.read_json(done)["fingerprint"] == key:
        return dict(storage.read_json(done))
    storage.remove(output)
    num_buckets = max(1, round(num_rows * sum(weights.values()) / max(len(weights), 1) / _EXAMPLES_PER_BUCKET))
    chunks = _chunks(jobs)
    waiting = storage.join(output, "_examples")
    step = _ExampleStep(model_folder, weights, section, num_buckets, seed, waiting)
    items = [{"number": number, "jobs": json.dumps(chunk)} for number, chunk in enumerate(chunks)]
    ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        step, batch_size=None, batch_format="pyarrow"
    ).materialize()
    packed = ray.data.range(num_buckets, override_num_blocks=min(num_buckets, 200)).map_batches(
        _PackStep(waiting, output, section.row_length), batch_size=None, batch_format="pyarrow"
    )
    stats = _summarize(packed.take_all(), section.row_length)
    if not stats["num_rows"]:
        raise ConfigError(
            f"data: the tables must hold examples of {', '.join(weights) or 'any task'} of at most data.row_length "
            f"({section.row_length}) tokens, found none; {stats['too_long']} are longer"
        )
    stats["fingerprint"] = key
    storage.remove(waiting)
    storage.write_json(done, stats)
    return stats


def _resolved(section: DataSection) -> DataSection:
    """The same tables by absolute paths: workers know neither the driver's folder nor its environment."""
    named = {"parallel_text": section.parallel_text, "dialogues": section.dialogues}
    paths = {name: storage.absolute(path) for name, path in named.items() if path}
    return section.model_copy(update={"units": units_folder(section.units), **paths})


def _inputs(section: DataSection, weights: Mapping[str, float]) -> tuple[list[dict[str, Any]], int]:
    """One piece of work for each file, and the number of rows in all of them."""
    wanted: list[tuple[str, str]] = []
    if "asr" in weights or "tts" in weights:
        wanted.append(("units", units_folder(section.units)))
    if section.parallel_text and "mt" in weights:
        wanted.append(("parallel_text", storage.absolute(section.parallel_text)))
    if section.dialogues and ("text" in weights or "answer" in weights):
        wanted.append(("dialogues", storage.absolute(section.dialogues)))
    jobs, num_rows = [], 0
    for table, uri in wanted:
        if not storage.exists(uri):
            raise ConfigError(f"data.{table}: must be a table, found nothing at {uri}")
        for file in storage.list_files(uri, ".parquet") if storage.is_folder(uri) else [uri]:
            name = file.removeprefix(uri)
            if "/split=" in name and f"/split={section.split}/" not in name:
                continue
            rows = storage.dataset(file).count_rows()
            key = [table, name, storage.listing_digest(file)]
            jobs.append({"table": table, "uri": uri, "file": file, "rows": rows, "key": key})
            num_rows += rows
    return jobs, num_rows


def _chunks(jobs: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbouring files together, so that each task has work enough to be worth its start."""
    chunks: list[list[dict[str, Any]]] = []
    room = 0
    for job in jobs:
        if room <= 0:
            chunks.append([])
            room = _EXAMPLES_PER_BUCKET
        chunks[-1].append(job)
        room -= job["rows"]
    return chunks


@cache
def _builder(model_folder: str) -> tuple[ExampleBuilder, vocabulary.Vocabulary]:
    """Opened once a process: a worker takes many chunks."""
    with storage.local_folder(model_folder) as folder:
        layout = vocabulary.load(folder)
        return ExampleBuilder(text_tokenizer.load(folder), layout, ChainSection(form="full")), layout


class _ExampleStep:
    """Files of the tables -> one file of examples whose row groups are the buckets."""

    def __init__(
        self,
        model_folder: str,
        weights: Mapping[str, float],
        section: DataSection,
        num_buckets: int,
        seed: int,
        output: str,
    ) -> None:
        self._model_folder, self._weights, self._section = model_folder, weights, section
        self._num_buckets, self._seed, self._output = num_buckets, seed, output

    def __call__(self, batch: pa.Table) -> pa.Table:
        for item in batch.to_pylist():
            table = self.examples(json.loads(item["jobs"]))
            groups = [table.filter(pc.equal(table.column("bucket"), b)) for b in pc.unique(table.column("bucket"))]
            if groups:
                storage.write_row_groups(groups, storage.join(self._output, f"chunk-{item['number']:05d}.parquet"))
        return batch.select(["number"])

    def examples(self, jobs: Sequence[Mapping[str, Any]]) -> pa.Table:
        """The examples of some files, each with its bucket."""
        builder, layout = _builder(self._model_folder)
        rows: dict[str, list[Any]] = {name: [] for name in _EXAMPLE_SCHEMA.names}
        for job in jobs:
            for example, copy in self._examples(job, builder, layout):
                place = zlib.crc32(f"{self._seed}/{copy}/{example.task}/{example.source}".encode())
                rows["bucket"].append(place % self._num_buckets)
                rows["task"].append(example.task)
                rows["source"].append(example.source)
                rows["input_ids"].append(np.asarray(example.input_ids, np.int32))
                rows["loss_mask"].append(np.asarray(example.loss_mask, np.uint8))
        return pa.table(rows, schema=_EXAMPLE_SCHEMA)

    def _examples(
        self, job: Mapping[str, Any], builder: ExampleBuilder, layout: vocabulary.Vocabulary
    ) -> Iterator[tuple[Example, int]]:
        """Examples with the number of their copy; only what is taken is built."""
        table = _read_split(job["table"], job["uri"], job["file"], self._section.split)
        if job["table"] == "units":
            layout.require_units_of(pc.unique(table.column("tokenizer")).to_pylist(), job["file"])
            for row in table.select(["id", "language", "text", "units"]).to_pylist():
                if row["text"]:
                    for task in ("asr", "tts"):
                        yield from self._copied(
                            task, row["id"], partial(builder.build, f"{task}/{row['language']}", row, {})
                        )
        elif job["table"] == "parallel_text":
            for row in table.to_pylist():
                yield from self._copied(
                    "mt", row["id"], partial(builder.build, groups_of("parallel_text", row)[0], row, {})
                )
        else:
            yield from self._dialogues(table.to_pylist(), builder)

    def _dialogues(
        self, dialogues: Sequence[Mapping[str, Any]], builder: ExampleBuilder
    ) -> Iterator[tuple[Example, int]]:
        spoken: list[tuple[Mapping[str, Any], set[str]]] = []
        for row in dialogues:
            needed = {turn["audio"] for turn in row["turns"] if turn["audio"] is not None}
            if not needed:
                yield from self._copied(
                    "text", row["id"], partial(builder.build, groups_of("dialogues", row)[0], row, {})
                )
            elif self._num_copies("answer", row["id"]):
                spoken.append((row, needed))
        found = units_of(self._section.units, sorted(set().union(*(ids for _, ids in spoken)))) if spoken else {}
        units = {name: Spoken(codes) for name, codes in found.items()}
        for row, needed in spoken:
            if needed <= units.keys():
                yield from self._copied(
                    "answer", row["id"], partial(builder.build, groups_of("dialogues", row)[0], row, units)
                )

    def _copied(self, task: str, source: str, build: Callable[[], list[Example]]) -> Iterator[tuple[Example, int]]:
        copies = self._num_copies(task, source)
        if copies:
            examples = build()
            yield from ((example, copy) for example in examples for copy in range(copies))

    def _num_copies(self, task: str, source: str) -> int:
        weight = self._weights.get(task, 0.0)
        # The fraction is decided by the row's own name, so it is the same half in every run.
        chance = zlib.crc32(f"keep/{self._seed}/{task}/{source}".encode()) / 2**32
        return int(weight) + int(chance < weight % 1)


class _PackStep:
    """The examples of one bucket -> one file of packed rows and a row of statistics."""

    def __init__(self, examples: str, output: str, row_length: int) -> None:
        self._examples, self._output, self._row_length = examples, output, row_length

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self._pack(number) for number in batch.column("id").to_pylist()])

    def _pack(self, number: int) -> pa.Table:
        files = storage.list_files(self._examples, ".parquet")
        if not files:
            return _STATS_SCHEMA.empty_table()
        bucket = storage.read_table(files, _EXAMPLE_SCHEMA.names, pc.field("bucket") == number)
        bucket = bucket.sort_by([("task", "ascending"), ("source", "ascending")])
        lengths = pc.list_value_length(bucket.column("input_ids")).to_numpy()
        fits = np.flatnonzero(lengths <= self._row_length)
        tasks, sources = bucket.column("task").to_pylist(), bucket.column("source").to_pylist()
        ids, masks = bucket.column("input_ids").to_pylist(), bucket.column("loss_mask").to_pylist()
        targets, examples, tokens = Counter[str](), Counter[str](), Counter[str]()
        rows = []
        for members in packing.best_fit(lengths[fits].tolist(), self._row_length):
            items = [int(fits[member]) for member in members]
            for item in items:
                examples[tasks[item]] += 1
                tokens[tasks[item]] += int(lengths[item])
                targets[tasks[item]] += sum(masks[item])
            rows.append(
                {
                    "input_ids": [token for item in items for token in ids[item]],
                    "loss_mask": [bit for item in items for bit in masks[item]],
                    "segment_lengths": [int(lengths[item]) for item in items],
                    "segment_tasks": [tasks[item] for item in items],
                    "segment_sources": [sources[item] for item in items],
                }
            )
        if rows:
            table = contracts.load("packed").table(rows)
            storage.write_table(table, storage.join(self._output, f"bucket-{number:05d}.parquet"))
        counts = [
            {"task": task, "examples": examples[task], "tokens": tokens[task], "targets": targets[task]}
            for task in sorted(examples)
        ]
        too_long = int(bucket.num_rows - len(fits))
        return pa.Table.from_pylist([{"rows": len(rows), "too_long": too_long, "counts": counts}], schema=_STATS_SCHEMA)


def units_of(units: str, ids: Sequence[str]) -> dict[str, list[int]]:
    """The merged units of the named utterances."""
    table = storage.read_table(units_folder(units), ["id", "units"], pc.field("id").isin(list(ids)))
    return dict(zip(table.column("id").to_pylist(), table.column("units").to_pylist(), strict=True))


def _read_split(name: str, uri: str, file: str, split: str) -> pa.Table:
    """The rows of one file of a table that belong to `split`, with the columns that its hive folders name."""
    contract = contracts.load(name)
    table = storage.read_table(file)
    for part in file.removeprefix(uri).split("/"):
        column, found, value = part.partition("=")
        if found and column in contract.partition_columns and column not in table.column_names:
            table = table.append_column(column, pa.array([value] * table.num_rows, pa.string()))
    table = contract.check(table, file)
    return table.filter(pc.equal(pc.fill_null(table.column("split"), "train"), split))


def _summarize(rows: Sequence[Mapping[str, Any]], row_length: int) -> dict[str, Any]:
    tasks: dict[str, dict[str, int]] = {}
    for row in rows:
        for count in row["counts"]:
            total = tasks.setdefault(count["task"], {"examples": 0, "tokens": 0, "targets": 0})
            for key in total:
                total[key] += count[key]
    num_rows = sum(row["rows"] for row in rows)
    num_tokens = sum(task["tokens"] for task in tasks.values())
    return {
        "num_rows": num_rows,
        "row_length": row_length,
        "num_tokens": num_tokens,
        "efficiency": num_tokens / (num_rows * row_length) if num_rows else 1.0,
        "too_long": sum(row["too_long"] for row in rows),
        "tasks": dict(sorted(tasks.items())),
    }


_EXAMPLE_SCHEMA = pa.schema(
    {
        "bucket": pa.int64(),
        "task": pa.string(),
        "source": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.uint8()),
    }
)
_COUNT = pa.struct({"task": pa.string(), "examples": pa.int64(), "tokens": pa.int64(), "targets": pa.int64()})
_STATS_SCHEMA = pa.schema({"rows": pa.int64(), "too_long": pa.int64(), "counts": pa.list_(_COUNT)})

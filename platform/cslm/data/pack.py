"""Builds the packed table: tables in, training rows out, by Ray Data, once for each (data, settings).

A table that this process packs sooner than workers start is packed in it; the passes and their result are the same.

Five passes, in each of which a task reads some files and writes one: count what the tables hold of every group; collect
which utterances the rows of dialogues and translations speak; give them to these rows (`data.joins`); make examples
(`data.example_table`); pack them (`data.packed_rows`). Examples are dealt to buckets by a hash of their names, and each
bucket is packed on its own, so the result is the same for any number of workers. The driver sees counts, never rows.

What waits for the next pass lies in Parquet files whose row groups are the chunks or buckets: Ray's own shuffle would
hold a CPU for each of its aggregators, which a small cluster does not have. A file that is there is whole and is not
made again, so an interrupted build goes on.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from cslm import cluster, contracts, storage
from cslm.config import fingerprint
from cslm.data import account, joins, mixture, packed_rows, sizes, sources
from cslm.data.example_table import ExampleMaker, open_builder
from cslm.data.mixture import Draw, GroupSize
from cslm.data.sources import DataSection, Piece
from cslm.errors import ConfigError
from cslm.lm import prompts, vocabulary
from cslm.lm.examples import SPEAKING_TASKS, TASKS, VERSION

STATS = "stats.json"
_BUILDING = "_building.json"
_ASIDE_KEY = b"cslm.set_aside"
# What a task takes at a time grows with the corpus, so that the small pieces between the passes, of which there are
# chunks times buckets, stay few; the upper bounds keep what a task holds at some hundred megabytes.
_CHUNK_ROWS, _BUCKET_EXAMPLES = (4096, 65536), (4096, 65536)
_MOST_PIECES = 256
# Counting a file takes less time than starting a task for it.
_FILES_A_COUNT = 16
# Up to so much is done here: starting workers takes several seconds of every core, making an example about 0.1 ms.
_FILES_HERE, _EXAMPLES_HERE = 64, 40_000


@dataclass(frozen=True)
class Counted:
    """What the tables of a section hold: rows of every file, sizes of every group, and a digest of it all."""

    files: list[dict[str, Any]]
    sizes: dict[str, GroupSize]
    digest: str


def count(section: DataSection, cache: str) -> Counted:
    """Count the tables of `section`, unless the file `cache` holds the counts of just these files.

    Raises ConfigError when a table is not there or several tokenizers made the units.
    """
    section = sources.resolved(section)
    uris = sources.tables_of(section)
    listed = {table: sources.files_of(table, uri, section.split) for table, uri in uris.items()}
    digest = fingerprint([section.split, *sources.digest_of(listed, uris)])
    known = storage.read_json(cache) if storage.exists(cache) else {}
    if known.get("digest") != digest:
        items = [
            {"table": table, "uri": uris[table], "file": one.uri, "split": section.split}
            for table, entries in listed.items()
            for one in entries
        ]
        known = {"digest": digest, "files": _run(_count, items, _FILES_A_COUNT, here=len(items) <= _FILES_HERE)}
        storage.write_json(cache, known)
    sizes.one_tokenizer(known["files"])
    return Counted(known["files"], sizes.total(known["files"]), digest)


def build(section: DataSection, tasks: Sequence[str], model_folder: str, output: str, *, seed: int) -> dict[str, Any]:
    """Write packed rows to `output` and return their statistics; a table that is there already is kept.

    `tasks` are the fields of `TaskWeights` to build. Raises ConfigError when the tables hold no example at all, and
    when the mixture names groups that they do not have.
    """
    section = sources.resolved(section)
    counted = count(section, f"{output}_sizes.json")
    weights = {task: weight for task, weight in section.weights.model_dump().items() if task in tasks and weight > 0}
    shares = mixture.shares(counted.sizes, weights, section.mixture)
    if not shares:
        raise ConfigError(
            f"data: the tables must hold rows of the split {section.split} for {', '.join(weights) or 'any task'}, "
            f"found none; they have {', '.join(counted.sizes) or 'nothing'}"
        )
    draw = Draw({group: share.repeats for group, share in shares.items()}, seed)
    layout = vocabulary.load(model_folder)
    aligned = storage.listing_digest(section.alignments, ".parquet") if section.alignments else ""
    chain = section.chain.model_dump()
    told = [VERSION, prompts.digest(model_folder), chain, section.row_length, layout.hash]
    key = fingerprint([counted.digest, aligned, dict(draw.repeats), told, seed])
    done, building = storage.join(output, STATS), storage.join(output, _BUILDING)
    if storage.exists(done) and storage.read_json(done)["fingerprint"] == key:
        return dict(storage.read_json(done))
    if not storage.exists(building) or storage.read_json(building) != key:
        storage.remove(output)
        storage.write_json(building, key)
    work = _Work(section, draw, model_folder, layout.hash, output, counted)
    aside = work.make_examples()
    stats = account.of_epoch(work.pack(), aside, counted.sizes, shares, section.row_length)
    if not stats["num_rows"]:
        raise ConfigError(
            f"data: the tables must hold examples of {', '.join(weights)} of at most data.row_length "
            f"({section.row_length}) tokens, found none; set aside: {account.told(stats['set_aside'])}"
        )
    stats |= {"fingerprint": key, "vocabulary": layout.hash}
    storage.write_json(done, stats)
    for waiting in (storage.join(output, "_spoken"), storage.join(output, "_examples"), building):
        storage.remove(waiting)
    return stats


class _Work:
    """One build: how it is cut into tasks, and its passes."""

    def __init__(
        self, section: DataSection, draw: Draw, model_folder: str, layout_hash: str, output: str, counted: Counted
    ) -> None:
        self._section, self._draw, self._model_folder = section, draw, model_folder
        self._layout_hash, self._output, self._counted = layout_hash, output, counted
        self._uris = sources.tables_of(section)
        tasks = {mixture.task_of(group) for group in draw.repeats}
        tables = {TASKS[task] for task in tasks}
        speaking = {TASKS[task] for task in tasks if task in SPEAKING_TASKS}
        rows = self._rows_a_chunk(tables)
        # Chunks that need utterances come first: their number is that of their row group in the side files.
        self._speaking = [chunk for table in sorted(speaking) for chunk in self._chunks(table, rows)]
        self._silent = [chunk for table in sorted(tables - speaking) for chunk in self._chunks(table, rows)]
        examples = sum(counted.sizes[group].examples * repeats for group, repeats in draw.repeats.items())
        self._here = examples <= _EXAMPLES_HERE
        self._num_buckets = max(1, round(examples / _between(_BUCKET_EXAMPLES, examples / _MOST_PIECES)))

    def make_examples(self) -> list[dict[str, dict[str, int]]]:
        """Write the examples of every chunk and return what was set aside, chunk by chunk."""
        parts = self._join() if self._speaking else []
        step = _ExampleStep(self._section, self._draw, self._num_buckets, self._model_folder)
        items = [
            {"file": self.example_file(number), "chunk": number, "pieces": chunk, "parts": parts}
            for number, chunk in enumerate(self._speaking)
        ]
        items += [
            {"file": self.example_file(number), "chunk": number, "pieces": chunk, "parts": []}
            for number, chunk in enumerate(self._silent, len(self._speaking))
        ]
        return _run(step, items, here=self._here)

    def pack(self) -> list[dict[str, dict[str, int]]]:
        """Write the packed rows of every bucket and return what is in them, bucket by bucket."""
        files = [self.example_file(number) for number in range(len(self._speaking) + len(self._silent))]
        step = _PackStep(files, self._section.row_length, self._layout_hash)
        return _run(
            step,
            [
                {"file": storage.join(self._output, f"bucket-{number:05d}.parquet"), "bucket": number}
                for number in range(self._num_buckets)
            ],
            here=self._here,
        )

    def example_file(self, number: int) -> str:
        """Where the examples of a chunk wait."""
        return storage.join(self._output, "_examples", f"chunk-{number:05d}.parquet")

    def _join(self) -> list[str]:
        """Give every speaking chunk its utterances; returns the side files, whose row groups are the chunks."""
        # Of all splits: which split a row belongs to is its own affair, not that of the utterances it speaks.
        uri = self._section.units
        files = storage.list_files(uri, ".parquet") if storage.is_folder(uri) else [uri]
        known = {one["file"]: one["rows"] for one in self._counted.files if one["table"] == "units"}
        rows = [known[file] if file in known else storage.parquet_schema(file)[1] for file in files]
        whole = [Piece("units", uri, file, 0, n) for file, n in zip(files, rows, strict=True)]
        total = sum(piece.stop for piece in whole)
        chunks = sources.chunks(whole, int(_between(_CHUNK_ROWS, total / _MOST_PIECES)))
        parts = [storage.join(self._output, "_spoken", f"part-{number:05d}.parquet") for number in range(len(chunks))]
        missing = [
            {"file": part, "pieces": chunk}
            for part, chunk in zip(parts, chunks, strict=True)
            if not storage.exists(part)
        ]
        if missing:
            step = _NeededStep(self._section, self._draw)
            asking = [{"chunk": n, "pieces": chunk} for n, chunk in enumerate(self._speaking)]
            needed: Callable[[], list[pa.Table]]
            if self._here:
                needed = partial(list, [step(item) for item in _told(asking)])
            else:
                # What each chunk needs stays in the object store; every task looks its own up in all of it.
                needed = partial(ray.get, _dataset(step, asking).materialize().to_arrow_refs())
            _run(_SpokenStep(self._section, needed, len(self._speaking)), missing, here=self._here)
        return parts

    def _rows_a_chunk(self, tables: Iterable[str]) -> int:
        total = sum(one["rows"] for one in self._counted.files if one["table"] in set(tables))
        return int(_between(_CHUNK_ROWS, total / _MOST_PIECES))

    def _chunks(self, table: str, rows: int) -> list[list[Piece]]:
        files = [one for one in self._counted.files if one["table"] == table]
        whole = [Piece(table, self._uris[table], one["file"], 0, one["rows"]) for one in files]
        return sources.chunks(whole, rows)


def _count(item: Mapping[str, Any]) -> dict[str, Any]:
    return sizes.count(item["table"], item["uri"], item["file"], item["split"])


class _NeededStep:
    """A chunk of rows -> the utterances that it needs, as a table that stays in the object store."""

    def __init__(self, section: DataSection, draw: Draw) -> None:
        self._section, self._draw = section, draw

    def __call__(self, item: Mapping[str, Any]) -> pa.Table:
        section = self._section
        return joins.needed(item["chunk"], _pieces(item), section.split, self._draw, section.chain)


class _SpokenStep:
    """Pieces of the units table -> a side file with what the chunks need of them."""

    def __init__(self, section: DataSection, needed: Callable[[], list[pa.Table]], num_chunks: int) -> None:
        self._section, self._needed, self._num_chunks = section, needed, num_chunks

    def __call__(self, item: Mapping[str, Any]) -> None:
        wanted = pa.concat_tables([joins.NEEDED_SCHEMA.empty_table(), *self._needed()])
        storage.write_row_groups(joins.spoken(self._section, _pieces(item), wanted, self._num_chunks), item["file"])


class _ExampleStep:
    """A chunk -> a file of examples whose row groups are the buckets; gives what was set aside."""

    def __init__(self, section: DataSection, draw: Draw, num_buckets: int, model_folder: str) -> None:
        self._section, self._draw = section, draw
        self._num_buckets, self._model_folder = num_buckets, model_folder

    def __call__(self, item: Mapping[str, Any]) -> Any:
        file = item["file"]
        if storage.exists(file):
            return json.loads(storage.parquet_schema(file)[0].metadata[_ASIDE_KEY])
        builder, layout = open_builder(self._model_folder, self._section.chain, self._section.row_length)
        maker = ExampleMaker(builder, layout, self._section, self._draw, self._num_buckets)
        tables, aside = maker.make(_pieces(item), joins.read_spoken(item["parts"], item["chunk"]))
        noted = tables[0].schema.with_metadata({_ASIDE_KEY: json.dumps(aside).encode()})
        storage.write_row_groups([table.cast(noted) for table in tables], file)
        return aside


class _PackStep:
    """A bucket -> a file of packed rows; gives what is in them."""

    def __init__(self, files: Sequence[str], row_length: int, layout_hash: str) -> None:
        self._files, self._row_length, self._layout_hash = files, row_length, layout_hash

    def __call__(self, item: Mapping[str, Any]) -> Any:
        file = item["file"]
        if storage.exists(file):
            return json.loads(storage.parquet_schema(file)[0].metadata[packed_rows.COUNTS_KEY])
        table, groups = packed_rows.pack(self._files, item["bucket"], self._row_length)
        counts = {"rows": table.num_rows, "groups": groups}
        table = contracts.load("packed").check(table, file)
        noted = {packed_rows.VOCABULARY_KEY: self._layout_hash, packed_rows.COUNTS_KEY: json.dumps(counts)}
        storage.write_table(table.replace_schema_metadata({**table.schema.metadata, **noted}), file)
        return counts


def _dataset(
    step: Callable[[Mapping[str, Any]], pa.Table], items: Sequence[Mapping[str, Any]], items_a_task: int = 1
) -> ray.data.Dataset:
    """A dataset of what `step` gives for each item."""

    def batch_step(batch: pa.Table) -> pa.Table:
        return pa.concat_tables([step(json.loads(text)) for text in batch.column("item").to_pylist()])

    texts = [{"item": json.dumps(item)} for item in _told(items)]
    dataset: ray.data.Dataset = ray.data.from_items(texts, override_num_blocks=-(-len(texts) // items_a_task))
    mapped = dataset.map_batches(batch_step, batch_size=None, batch_format="pyarrow")
    mapped.context.raise_original_map_exception = True
    return mapped


def _run(
    step: Callable[[Mapping[str, Any]], Any],
    items: Sequence[Mapping[str, Any]],
    items_a_task: int = 1,
    *,
    here: bool = False,
) -> list[Any]:
    """Call `step` on each item, by workers or `here`; the small JSON values that it gives, in order of the items."""
    if not items:
        return []
    if here:
        return [step(item) for item in _told(items)]

    def noted(item: Mapping[str, Any]) -> pa.Table:
        return pa.table({"number": [item["number"]], "result": [json.dumps(step(item))]})

    # What fails is told by `cluster.workers_faults`; Ray would print its own traceback before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with cluster.workers_faults():
        numbered = [{**item, "number": number} for number, item in enumerate(items)]
        rows = _dataset(noted, numbered, items_a_task).take_all()
    return [json.loads(row["result"]) for row in sorted(rows, key=lambda row: row["number"])]


def _told(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items as plain values, which is how steps are given them wherever they run."""
    told: list[dict[str, Any]] = json.loads(json.dumps(items, default=asdict))
    return told


def _pieces(item: Mapping[str, Any]) -> list[Piece]:
    return [Piece(**piece) for piece in item["pieces"]]


def _between(bounds: tuple[int, int], value: float) -> float:
    return min(max(value, bounds[0]), bounds[1])

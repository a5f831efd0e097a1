"""The Ray Data pipeline of the tokenize job: pending shards -> tables written, and a small row of counts for each.

With GPUs three steps run side by side, so that a GPU waits for nothing: decoding on CPU tasks, the tokenizer in a pool
of actors that load it once, writing on CPU tasks. Without, they would only compete for the same cores: decoding and
writing then happen in the tokenizer's actors, and no audio crosses from one process to another. Between steps a piece
of a shard is one row that holds its table as bytes, which Ray cannot cut in two: each file is written by one task.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import ray
from threadpoolctl import threadpool_limits

from cslm import cluster, storage
from cslm.config import Section, group, setting
from cslm.data import manifest, recordings
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, write_piece
from cslm.data.units import tokenize_piece
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizers import (
    HubertSection,
    KindSection,
    KMeansSection,
    LearnedSection,
    MimiSection,
    S3Section,
)

# What a worker takes before it holds any audio.
_PROCESS_BYTES = 300 << 20


class TokenizerSection(Section):
    """Which tokenizer, and what its actors get."""

    kind: str | None = setting(
        None,
        f"one of: {', '.join(speech.KINDS)}; or your own class as package.module:Class. When not given, that of what "
        "lies at path, or kmeans",
    )
    path: str | None = setting(None, "saved tokenizer; where there is none one is made and saved there")
    learned: LearnedSection = group(LearnedSection, "nothing but tokenizer.path, a folder of jobs/fit_tokenizer.py")
    kmeans: KMeansSection = group(KMeansSection, "what a k-means tokenizer is fitted with")
    s3: S3Section = group(S3Section, "which of CosyVoice's S3 tokenizers")
    hubert: HubertSection = group(HubertSection, "which HuBERT-style network, and how its units are fitted")
    mimi: MimiSection = group(MimiSection, "which Mimi codec")
    options: dict[str, Any] = setting({}, "what your own class is made with, as --tokenizer.options.NAME VALUE")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where the cluster has GPUs at the start")
    num_cpus: float = setting(1.0, "logical CPUs of an actor", gt=0)
    num_gpus: float = setting(1.0, "GPUs of an actor on cuda; a fraction shares one", gt=0)
    min_actors: int = setting(1, "actors at least, however little there is to do", ge=1)
    initial_actors: int | None = setting(
        None, "actors asked for at the start; min_actors when not given. More are added as pieces wait", ge=1
    )
    max_actors: int | None = setting(
        None,
        "actors at most; when not given as many as the GPUs, or half of the CPUs, of the nodes that are there suffice "
        "for. Give it where an autoscaler starts nodes: Ray does not tell how many it may start",
        ge=1,
    )

    @property
    def section(self) -> KindSection | None:
        """The settings of the chosen kind, None when it is a user's own class."""
        kind = self.settled_kind
        return None if speech.is_own(kind) else getattr(self, kind)

    @property
    def settled_kind(self) -> str:
        """The kind, once it is known where none was given."""
        assert self.kind is not None
        return self.kind


class DecodeSection(Section):
    """How audio is read and decoded."""

    apart: bool | None = setting(
        None,
        "decode and write in tasks beside the actors, not in them; on cuda when not given. Pays on slow storage too",
    )
    num_cpus: float = setting(1.0, "logical CPUs of a decoding task that stands apart", gt=0)
    piece_s: float = setting(1200.0, "audio that is held decoded at a time; bounds memory", unit="s", gt=0)


def run(
    pending: Sequence[Entry],
    output: str,
    described: dict[str, Any],
    *,
    tokenizer: TokenizerSection,
    decode: DecodeSection,
    intake: Intake,
) -> Iterator[dict[str, Any]]:
    """Tokenize shards; yields {shard, piece, last, counts} once the tables of a piece are written.

    `described` is what the tokenizer's own file says (see `speech.tokenizer.describe`).
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What fails is told by `cluster.workers_faults`; Ray would print its own traceback before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # A piece goes on as soon as it is there: without this Ray would gather pieces up to its target of 128 MB.
    context.target_max_block_size = 1 << 20
    on_gpu = device_of(tokenizer) == "cuda"
    apart = on_gpu if decode.apart is None else decode.apart
    num_actors = min(_most_actors(tokenizer, on_gpu), len(pending))
    decode_step: Any = _decode  # Ray's own types leave out functions that take `fn_args`
    write_step: Any = _write
    # Two steps that ask for the same resources are one to Ray, two that do not stay apart. The memory is that of a
    # piece, of the copies that are handed on, and of the process itself.
    piece_bytes = decode.piece_s * described["sample_rate_hz"] * 4
    resources = {"num_cpus": decode.num_cpus, "memory": 3 * piece_bytes + _PROCESS_BYTES}
    # Ray refuses GPUs to a step that leaves the batch size to it, and a step with a size is not fused to the one
    # before and so needs a CPU more, which a small cluster may not have. A row is a piece: one a batch is as good.
    decode_batch, tokenize_batch = (1 if on_gpu and not apart else None), (1 if on_gpu else None)
    # One block a shard, there from the start: reading tasks would ask for CPUs that a small cluster may not have.
    shards = [{"shard": json.dumps(shard)} for shard in pending]
    dataset: ray.data.Dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        decode_step,
        batch_size=decode_batch,
        batch_format="pyarrow",
        **(resources if apart else {"num_cpus": tokenizer.num_cpus, "num_gpus": tokenizer.num_gpus if on_gpu else 0}),
        fn_args=(output, described["sample_rate_hz"], intake, decode.piece_s),
    )
    dataset = dataset.map_batches(
        _Tokenize if apart else _TokenizeAndWrite,
        batch_size=tokenize_batch,
        batch_format="pyarrow",
        fn_constructor_args=(described["kind"], output, "cuda" if on_gpu else "cpu"),
        compute=_pool(tokenizer, num_actors),
        num_cpus=tokenizer.num_cpus,
        num_gpus=tokenizer.num_gpus if on_gpu else 0,
    )
    if apart:
        dataset = dataset.map_batches(
            write_step, batch_size=None, batch_format="pyarrow", fn_args=(output,), num_cpus=0.25
        )
    with cluster.workers_faults():
        for row in dataset.iter_rows():
            yield {**row, "shard": json.loads(row["shard"]), "counts": json.loads(row["counts"])}


def device_of(section: TokenizerSection) -> str:
    """The device that actors use on the cluster as it is now."""
    if section.device == "auto":
        return "cuda" if cluster.has_gpus() else "cpu"
    return section.device


def one_thread_a_cpu() -> None:
    """Keep numerical libraries from taking all cores in every worker: Ray tells each its share by this variable.

    It is for those that are loaded; call it again when more are.
    """
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")))
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _pool(section: TokenizerSection, num_actors: int) -> ray.data.ActorPoolStrategy:
    """At least one actor is asked for at once, so that a cluster without a free node starts one for it."""
    least = min(section.min_actors, num_actors)
    first = min(max(section.initial_actors or least, least), num_actors)
    return ray.data.ActorPoolStrategy(min_size=least, initial_size=first, max_size=num_actors)


def _most_actors(section: TokenizerSection, on_gpu: bool) -> int:
    if section.max_actors is not None:
        return section.max_actors
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if on_gpu:
        return max(1, int(resources.get("GPU", 0) / section.num_gpus))
    return max(1, int(resources.get("CPU", 0) / section.num_cpus / 2))


def _decode(batch: pa.Table, output: str, sample_rate_hz: int, intake: Intake, piece_s: float) -> Iterator[pa.Table]:
    for told in batch.column("shard").to_pylist():
        rows = manifest.read_shard(output, json.loads(told)["name"])
        for number, (piece, last) in enumerate(recordings.decode_shard(rows, sample_rate_hz, intake, piece_s)):
            yield _row(shard=told, piece=number, last=last, table=_packed(piece))


class _Tokenize:
    """Pieces of audio -> their units, rejects and counts."""

    def __init__(self, kind: str, output: str, device: str) -> None:
        self._tokenizer = speech.load(kind, storage.join(output, "tokenizer"), device)
        one_thread_a_cpu()

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in _rows(batch):
            units, rejects, counts = tokenize_piece(_unpacked(row.pop("table")), self._tokenizer)
            yield _row(**row, units=_packed(units), rejects=_packed(rejects), counts=json.dumps(counts))


class _TokenizeAndWrite(_Tokenize):
    """The same and their tables written, in one step."""

    def __init__(self, kind: str, output: str, device: str) -> None:
        super().__init__(kind, output, device)
        self._output = output

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for result in super().__call__(batch):
            yield from _write(result, self._output)


def _write(batch: pa.Table, output: str) -> Iterator[pa.Table]:
    for row in _rows(batch):
        units, rejects = _unpacked(row.pop("units")), _unpacked(row.pop("rejects"))
        write_piece(output, json.loads(row["shard"]), row["piece"], units, rejects)
        yield _row(**row)


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

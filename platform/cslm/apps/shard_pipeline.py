"""Work on shards by Ray Data: pending shards -> tables written, and a small row of counts for each piece of them.

With GPUs three steps run side by side, so that a GPU waits for nothing: decoding on CPU tasks, the network in a pool of
actors that load it once, writing on CPU tasks. Without, they would only compete for the same cores: decoding and
writing then happen in the actors, and no audio crosses from one process to another. Between steps a piece of a shard is
one row that holds its tables as bytes, which Ray cannot cut in two: each file is written by one task.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import ray
from threadpoolctl import threadpool_limits

from cslm import cluster
from cslm.config import Section, setting
from cslm.data.ledger import Entry

# What a worker takes before it holds any audio.
_PROCESS_BYTES = 300 << 20

# A shard in pieces, each with whether it is the last.
Decode = Callable[[Entry], Iterator[tuple[pa.Table, bool]]]
# A piece -> its tables by name, and counts.
Compute = Callable[[pa.Table], tuple[Mapping[str, pa.Table], Entry]]
# Writes the tables of piece number so and so of a shard.
Write = Callable[[Entry, int, Mapping[str, pa.Table]], None]


class ActorsSection(Section):
    """What the actors that hold a network get."""

    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where the cluster has GPUs or may start some")
    num_cpus: float = setting(1.0, "logical CPUs of an actor", gt=0)
    num_gpus: float = setting(1.0, "GPUs of an actor on cuda; a fraction shares one", gt=0)
    accelerator: str | None = setting(
        None, "type of GPU that actors need, as Ray names it (L4, A100, H100); any, where not given"
    )
    min_actors: int = setting(1, "actors at least, however little there is to do", ge=1)
    initial_actors: int | None = setting(
        None, "actors asked for at the start; min_actors when not given. More are added as pieces wait", ge=1
    )
    max_actors: int | None = setting(
        None,
        "actors at most; when not given as many as the GPUs that are there or that CSLM_AUTOSCALED_GPUS says may be "
        "started, or half of the CPUs that are there, suffice for",
        ge=1,
    )


@dataclass(frozen=True)
class Steps:
    """What is done to a shard, each step as something that can be sent to a worker. `load` is given the device."""

    decode: Decode
    load: Callable[[str], Compute]
    write: Write
    # Audio that a decoding task holds at a time.
    piece_bytes: float


def run(
    pending: Sequence[Entry], steps: Steps, actors: ActorsSection, *, apart: bool | None, decode_cpus: float
) -> Iterator[dict[str, Any]]:
    """Work on shards; yields {shard, piece, last, counts} once the tables of a piece are written.

    With `apart` decoding and writing are tasks beside the actors, on cuda when it is None.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What fails is told by `cluster.workers_faults`; Ray would print its own traceback before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # A piece goes on as soon as it is there: without this Ray would gather pieces up to its target of 128 MB.
    context.target_max_block_size = 1 << 20
    on_gpu = device_of(actors) == "cuda"
    apart = on_gpu if apart is None else apart
    num_actors = min(_most_actors(actors, on_gpu), len(pending))
    decode_step: Any = _decode  # Ray's own types leave out functions that take `fn_args`
    write_step: Any = _write
    # Two steps that ask for the same resources are one to Ray, two that do not stay apart. The memory is that of a
    # piece, of the copies that are handed on, and of the process itself.
    resources = {"num_cpus": decode_cpus, "memory": 3 * steps.piece_bytes + _PROCESS_BYTES}
    # Ray refuses GPUs to a step that leaves the batch size to it, and a step with a size is not fused to the one
    # before and so needs a CPU more, which a small cluster may not have. A row is a piece: one a batch is as good.
    decode_batch, compute_batch = (1 if on_gpu and not apart else None), (1 if on_gpu else None)
    # One block a shard, there from the start: reading tasks would ask for CPUs that a small cluster may not have.
    shards = [{"shard": json.dumps(shard)} for shard in pending]
    dataset: ray.data.Dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        decode_step,
        batch_size=decode_batch,
        batch_format="pyarrow",
        **(resources if apart else resources_of(actors, on_gpu)),
        fn_args=(steps.decode,),
    )
    dataset = dataset.map_batches(
        _Compute if apart else _ComputeAndWrite,
        batch_size=compute_batch,
        batch_format="pyarrow",
        fn_constructor_args=(steps, "cuda" if on_gpu else "cpu"),
        compute=_pool(actors, num_actors),
        **resources_of(actors, on_gpu),
    )
    if apart:
        dataset = dataset.map_batches(
            write_step, batch_size=None, batch_format="pyarrow", fn_args=(steps.write,), num_cpus=0.25
        )
    with cluster.workers_faults():
        for row in dataset.iter_rows():
            yield {**row, "shard": json.loads(row["shard"]), "counts": json.loads(row["counts"])}


def device_of(section: ActorsSection) -> str:
    """The device that actors use on the cluster as it is now."""
    if section.device == "auto":
        return "cuda" if section.accelerator is not None or cluster.has_gpus() else "cpu"
    return section.device


def resources_of(section: ActorsSection, on_gpu: bool) -> dict[str, Any]:
    """What an actor, or a task that does the same, asks of Ray."""
    if not on_gpu:
        return {"num_cpus": section.num_cpus, "num_gpus": 0}
    of_type = cluster.of_type(section.accelerator)
    more = {"resources": of_type} if of_type else {}
    return {"num_cpus": section.num_cpus, "num_gpus": section.num_gpus, **more}


def one_thread_a_cpu() -> None:
    """Keep numerical libraries from taking all cores in every worker: Ray tells each its share by this variable.

    It is for those that are loaded; call it again when more are.
    """
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")))
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _pool(section: ActorsSection, num_actors: int) -> ray.data.ActorPoolStrategy:
    """At least one actor is asked for at once, so that a cluster without a free node starts one for it."""
    least = min(section.min_actors, num_actors)
    first = min(max(section.initial_actors or least, least), num_actors)
    return ray.data.ActorPoolStrategy(min_size=least, initial_size=first, max_size=num_actors)


def _most_actors(section: ActorsSection, on_gpu: bool) -> int:
    if section.max_actors is not None:
        return section.max_actors
    if on_gpu:
        return max(1, int(cluster.most_gpus(section.accelerator) / section.num_gpus))
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 0) / section.num_cpus / 2))


def _decode(batch: pa.Table, decode: Decode) -> Iterator[pa.Table]:
    for told in batch.column("shard").to_pylist():
        for number, (piece, last) in enumerate(decode(json.loads(told))):
            yield _row(shard=told, piece=number, last=last, audio=_packed(piece))


class _Compute:
    """Pieces of audio -> their tables and counts."""

    def __init__(self, steps: Steps, device: str) -> None:
        self._compute = steps.load(device)
        one_thread_a_cpu()

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in _rows(batch):
            tables, counts = self._compute(_unpacked(row.pop("audio")))
            yield _row(**row, counts=json.dumps(counts), **{name: _packed(table) for name, table in tables.items()})


class _ComputeAndWrite(_Compute):
    """The same and their tables written, in one step."""

    def __init__(self, steps: Steps, device: str) -> None:
        super().__init__(steps, device)
        self._write = steps.write

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for result in super().__call__(batch):
            yield from _write(result, self._write)


def _write(batch: pa.Table, write: Write) -> Iterator[pa.Table]:
    for row in _rows(batch):
        tables = {name: _unpacked(row.pop(name)) for name, value in list(row.items()) if isinstance(value, pa.Buffer)}
        write(json.loads(row["shard"]), row["piece"], tables)
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

"""The Ray part of the align job: shards -> tables written by a pool of actors that hold the aligner, and counts.

An actor reads, decodes, aligns and writes a shard by itself, so that no audio crosses from one process to another.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import ray

from cslm import cluster, storage
from cslm.apps.tokenize_pipeline import one_thread_a_cpu
from cslm.config import Section, setting
from cslm.data import alignments
from cslm.data.ledger import Entry
from cslm.errors import ContractError
from cslm.speech import aligned, aligners
from cslm.speech.aligned import LimitsSection
from cslm.speech.audio import Channels

# Utterances of each language that the latency is told from, taken from the first of its shards.
_CALIBRATED = 60


class ActorsSection(Section):
    """What the actors get that align."""

    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where the cluster has GPUs at the start")
    num_cpus: float = setting(1.0, "logical CPUs of an actor", gt=0)
    num_gpus: float = setting(1.0, "GPUs of an actor on cuda; a fraction shares one", gt=0)
    max_actors: int | None = setting(
        None, "actors at most; when not given as many as the CPUs or GPUs of the nodes that are there suffice for", ge=1
    )

    @property
    def settled_device(self) -> str:
        """The device on the cluster as it is now."""
        if self.device == "auto":
            return "cuda" if cluster.has_gpus() else "cpu"
        return self.device


def answers_of(dialogues: str) -> Any:
    """A reference to the ids of the utterances that assistants speak in a dialogues table, as an array of strings."""
    return _answers.remote(dialogues)


def run(
    pending: Sequence[Entry],
    output: str,
    described: dict[str, Any],
    wanted: Any,
    actors: ActorsSection,
    *,
    channels: Channels,
    latency_s: float,
    limits: LimitsSection,
) -> Iterator[dict[str, Any]]:
    """Align shards; yields {shard, counts} once the tables of a shard are written.

    `described` is what `aligners.describe` told; `wanted` what `answers_of` gave, or None for all utterances.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What fails is told by `cluster.workers_faults`; Ray would print its own traceback before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    device = actors.settled_device
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    whole = resources.get("GPU", 0) / actors.num_gpus if device == "cuda" else resources.get("CPU", 0) / actors.num_cpus
    most = min(actors.max_actors or max(1, int(whole)), len(pending))
    items = [{"shard": json.dumps(shard)} for shard in pending]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Align,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(described, device, output, wanted, channels, latency_s, limits),
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=most, max_size=most),
        num_cpus=actors.num_cpus,
        num_gpus=actors.num_gpus if device == "cuda" else 0,
    )
    with cluster.workers_faults():
        for row in dataset.iter_rows():
            yield {"shard": json.loads(row["shard"]), "counts": json.loads(row["counts"])}


def calibrate(
    shards: Sequence[Entry], described: dict[str, Any], actors: ActorsSection, channels: Channels
) -> tuple[float, int]:
    """How late the aligner's symbols peak (see `word_times.latency`), and the words that this is told from.

    Told from the first shard of each language, of the training split where it has one.
    """
    ordered = sorted(shards, key=lambda one: (one["split"] != "train", one["name"]), reverse=True)
    firsts = {shard["language"]: shard for shard in ordered}
    device = actors.settled_device
    measured = _calibrate.options(num_cpus=actors.num_cpus, num_gpus=actors.num_gpus if device == "cuda" else 0)
    with cluster.workers_faults():
        found: tuple[float, int] = ray.get(measured.remote(list(firsts.values()), described, device, channels))
    return found


class _Align:
    """Shards -> their tables, written, and counts."""

    def __init__(
        self,
        described: dict[str, Any],
        device: str,
        output: str,
        wanted: Any,
        channels: Channels,
        latency_s: float,
        limits: LimitsSection,
    ) -> None:
        self._aligner = aligners.load(described, device)
        one_thread_a_cpu()
        self._fingerprint, self._output = described["fingerprint"], output
        self._wanted = None if wanted is None else ray.get(wanted)
        self._settings: dict[str, Any] = {"channels": channels, "latency_s": latency_s, "limits": limits}

    def __call__(self, batch: pa.Table) -> pa.Table:
        counted = []
        for told in batch.column("shard").to_pylist():
            shard = json.loads(told)
            found, rejects, counts = alignments.align_shard(
                shard, self._wanted, self._aligner, self._fingerprint, **self._settings
            )
            alignments.write(self._output, shard, found, rejects)
            counted.append(json.dumps(counts))
        return batch.append_column("counts", pa.array(counted, pa.string()))


@ray.remote
def _answers(dialogues: str) -> pa.Array:
    found: set[str] = set()
    for turns in storage.read_table(dialogues, ["turns"]).column("turns").to_pylist():
        found |= {turn["audio"] for turn in turns if turn["role"] == "assistant" and turn.get("audio")}
    if not found:
        raise ContractError(
            f"data.dialogues: must have turns of the assistant with audio, found none in {dialogues}; leave it out to "
            "align all utterances"
        )
    return pa.array(sorted(found), pa.string())


@ray.remote
def _calibrate(
    shards: Sequence[Entry], described: dict[str, Any], device: str, channels: Channels
) -> tuple[float, int]:
    aligner = aligners.load(described, device)
    one_thread_a_cpu()
    paths: list[aligned.Path | aligned.Fault] = []
    for shard in shards:
        rows = alignments.read_shard(shard, None)
        rows = rows.filter(pc.greater(pc.utf8_length(pc.fill_null(rows.column("text"), "")), 0)).slice(0, _CALIBRATED)
        for members, waveforms in alignments.clips(shard, rows, channels, aligner.sample_rate_hz):
            taken = [number for number, row in enumerate(members) if row["error"] is None]
            samples, texts = [waveforms[n] for n in taken], [members[n]["text"] for n in taken]
            paths += aligned.paths(aligner, samples, texts, shard["language"], min_known=0.5)
    return aligned.latency(paths)

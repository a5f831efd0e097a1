"""What the align job does to a file of the units table: decode its audio, find the words, write where they lie."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from cslm import cluster
from cslm.apps import shard_pipeline
from cslm.apps.shard_pipeline import ActorsSection, Compute, Steps
from cslm.config import Section, setting
from cslm.data import alignments
from cslm.data.ledger import Entry
from cslm.data.recordings import waveforms_of
from cslm.speech import aligned, aligners
from cslm.speech.aligned import Aligned, Fault, LimitsSection

# Utterances of each language on which the latency is told, and the longest of them.
_CALIBRATED, _LONGEST_CALIBRATED_S = 64, 20.0
_SAMPLE_FILES = 4


class AlignSection(ActorsSection):
    """Which aligner, and what its actors get."""

    aligner: str | None = setting(
        None,
        "folder of jobs/fit_tokenizer.py, or a Hugging Face CTC model; when not given the tokenizer of the units, "
        "where that is of kind learned",
    )
    adapters: dict[str, str] = setting(
        {}, "adapter of a model of many languages for a language, as --align.adapters.en eng"
    )
    latency_s: float | None = setting(
        None, "how long after its beginning a sound's symbol peaks; told from the audio when not given", unit="s"
    )


class DecodeSection(Section):
    """How audio is read and decoded."""

    apart: bool | None = setting(
        None,
        "decode and write in tasks beside the actors, not in them; on cuda when not given. Pays on slow storage too",
    )
    num_cpus: float = setting(1.0, "logical CPUs of a decoding task that stands apart", gt=0)


@dataclass(frozen=True)
class Work:
    """What workers need to know: where the tables lie, which rows are asked for, the aligner and its settings."""

    units: str
    output: str
    ids: pa.Array | None
    described: Mapping[str, Any]
    latency_s: float
    limits: LimitsSection
    sample_rate_hz: int = 16_000


def run(pending: Sequence[Entry], work: Work, section: AlignSection, decode: DecodeSection) -> Iterator[dict[str, Any]]:
    """Align shards; yields {shard, piece, last, counts} once the tables of a shard are written."""
    told = ray.put(work)
    longest_s = max(shard["audio_s"] for shard in pending)
    steps = Steps(
        _Decode(told), _Load(told), _Write(work.output), piece_bytes=max(longest_s, 60.0) * work.sample_rate_hz * 4
    )
    return shard_pipeline.run(pending, steps, section, apart=decode.apart, decode_cpus=decode.num_cpus)


def latency(shards: Sequence[Entry], work: Work, section: AlignSection) -> tuple[float, int]:
    """The aligner's latency by some utterances of each language, and from how many words it is told."""
    on_gpu = shard_pipeline.device_of(section) == "cuda"
    measure = _measure.options(**shard_pipeline.resources_of(section, on_gpu))
    by_language: dict[str, list[Entry]] = {}
    for shard in shards:
        by_language.setdefault(shard["language"], []).append(shard)
    chosen = [shard for of_one in by_language.values() for shard in of_one[:_SAMPLE_FILES]]
    with cluster.workers_faults():
        found: tuple[float, int] = ray.get(measure.remote(chosen, work, "cuda" if on_gpu else "cpu"))
    return found


@ray.remote
def _measure(shards: Sequence[Entry], work: Work, device: str) -> tuple[float, int]:
    shard_pipeline.one_thread_a_cpu()
    aligner = aligners.load(work.described, device)
    shard_pipeline.one_thread_a_cpu()
    left = {shard["language"]: _CALIBRATED for shard in shards}
    found: list[aligned.Path | Fault] = []
    for shard in shards:
        language = shard["language"]
        rows = alignments.asked(work.units, shard, work.ids)
        piece = alignments.decode(rows.slice(0, left[language]), shard, aligner.sample_rate_hz)
        told = piece.drop_columns(["samples"]).to_pylist()
        longest = _LONGEST_CALIBRATED_S * aligner.sample_rate_hz
        taken = [
            (row["text"], waveform)
            for row, waveform in zip(told, waveforms_of(piece), strict=True)
            if row["error"] is None and len(waveform) <= longest
        ]
        left[language] -= len(told)
        clips, texts = [waveform for _, waveform in taken], [text for text, _ in taken]
        found += aligned.paths(aligner, clips, texts, language, work.limits.min_known)
    return aligned.latency(found)


class _Decode:
    """A shard -> one piece: the tables of a shard lie in one file each."""

    def __init__(self, told: Any) -> None:
        self._told = told

    def __call__(self, shard: Entry) -> Iterator[tuple[pa.Table, bool]]:
        work: Work = ray.get(self._told)
        rows = alignments.asked(work.units, shard, work.ids)
        yield alignments.decode(rows, shard, work.sample_rate_hz), True


class _Load:
    """On a device -> what aligns a piece."""

    def __init__(self, told: Any) -> None:
        self._told = told

    def __call__(self, device: str) -> Compute:
        work: Work = ray.get(self._told)
        aligner = aligners.load(work.described, device)

        def compute(piece: pa.Table) -> tuple[Mapping[str, pa.Table], Entry]:
            return align_piece(piece, aligner, work)

        return compute


class _Write:
    """Writes the tables of a shard."""

    def __init__(self, output: str) -> None:
        self._output = output

    def __call__(self, shard: Entry, piece: int, tables: Mapping[str, pa.Table]) -> None:
        alignments.write(self._output, shard, tables["alignments"], tables["rejects"])


def align_piece(piece: pa.Table, aligner: aligners.Aligner, work: Work) -> tuple[Mapping[str, pa.Table], Entry]:
    """Alignments, rejects and counts of a piece (see `data.alignments.decode`), which is of one language."""
    rows = piece.drop_columns(["samples"]).to_pylist()
    waveforms = waveforms_of(piece)
    taken = [number for number, row in enumerate(rows) if row["error"] is None]
    results: list[Aligned | Fault] = [Fault(row["error"] or "", row["message"] or "") for row in rows]
    found = aligned.align(
        aligner,
        [waveforms[number] for number in taken],
        [rows[number]["text"] for number in taken],
        rows[0]["language"] if rows else "",
        work.latency_s,
        work.limits,
    )
    for number, one in zip(taken, found, strict=True):
        results[number] = one
    made, rejects = alignments.tables(rows, results, work.described["fingerprint"])
    counts = alignments.counts(piece, made, rejects, aligner.sample_rate_hz)
    return {"alignments": made, "rejects": rejects}, counts

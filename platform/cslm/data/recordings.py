"""Rows of a manifest shard -> pieces: tables of decoded audio, with the reason beside every row that has none.

A piece is as much of a shard as fits a budget of audio seconds, so that memory is bounded by the budget and not by
what a shard happens to hold. Where pieces are cut follows from the shard alone: redoing one gives the same pieces.
"""

import itertools
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from cslm import contracts
from cslm.data import fetch, locators, manifest
from cslm.errors import AudioError, ContractError
from cslm.speech.audio import AudioSection, Waveform, decode

_MAX_FIT_SHARDS = 16
_FETCHED_TOGETHER = 32

PIECE_SCHEMA = pa.schema(
    [
        *contracts.load("utterances").schema,
        pa.field("sha256", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("rejected_s", pa.float64()),
        pa.field("samples", pa.large_list(pa.float32())),
    ]
)


def decode_shard(
    shard: pa.Table, sample_rate_hz: int, limits: AudioSection, piece_s: float
) -> Generator[tuple[pa.Table, bool], None, None]:
    """Decode the utterances of a shard: (piece, whether it is the last) with columns of PIECE_SCHEMA.

    Faults of the data become `error` and `message` of their row; an OSError of the storage is raised.
    """
    rows: list[dict[str, Any]] = []
    waveforms: list[Waveform] = []
    held_s = 0.0
    left = shard.num_rows
    for row, found, waveform in _decoded(shard.to_pylist(), sample_rate_hz, limits):
        rows.append(row | found)
        waveforms.append(waveform)
        held_s += len(waveform) / sample_rate_hz
        left -= 1
        if held_s >= piece_s or left == 0:
            yield _piece(rows, waveforms), left == 0
            rows, waveforms, held_s = [], [], 0.0


def waveforms_of(piece: pa.Table) -> list[Waveform]:
    """Samples (T,) of each row of a piece, views of its memory; empty where the row has an error."""
    column = piece.column("samples").combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    return [values[start:end] for start, end in itertools.pairwise(offsets)]


def sample(output: str, seconds: float, sample_rate_hz: int, limits: AudioSection, seed: int) -> list[Waveform]:
    """About `seconds` of decoded audio of the training split, the same share of every language; equal for equal seeds.

    Rows that cannot be decoded are passed over. Without a training split all splits count. Raises ContractError when
    nothing can be decoded.
    """
    shards = manifest.load(output).shards
    shards = [shard for shard in shards if shard["split"] == "train"] or shards
    languages = sorted({shard["language"] for shard in shards})
    taken: list[Waveform] = []
    faults: Counter[str] = Counter()
    for number, language in enumerate(languages):
        rng = np.random.default_rng([seed, number])
        names = [shard["name"] for shard in shards if shard["language"] == language]
        chosen = [names[i] for i in rng.permutation(len(names))[:_MAX_FIT_SHARDS]]
        rows = pa.concat_tables([manifest.read_shard(output, name) for name in chosen])
        left_s = seconds / len(languages)
        order = rng.permutation(rows.num_rows)
        # Some are fetched at a time, so that what lies together in a container is read together.
        for first in range(0, rows.num_rows, _FETCHED_TOGETHER):
            some = rows.take(order[first : first + _FETCHED_TOGETHER]).to_pylist()
            together = sorted({row["audio"] for row in some}, key=locators.order)
            with closing(fetch.fetch_all(together)) as results:
                fetched = dict(zip(together, results, strict=True))
            for row in some:
                found, waveform = _decode(fetched[row["audio"]], row, sample_rate_hz, limits)
                if "message" in found:
                    faults[found["message"]] += 1
                else:
                    taken.append(waveform)
                    left_s -= len(waveform) / sample_rate_hz
                if left_s <= 0:
                    break
            if left_s <= 0:
                break
    if not taken:
        raise ContractError(
            f"corpus.manifest: must have audio that can be decoded, found none in {faults.total()} rows that were "
            f"tried; of one of them: {next(iter(faults))}"
        )
    return taken


def _decoded(
    rows: Sequence[dict[str, Any]], sample_rate_hz: int, limits: AudioSection
) -> Generator[tuple[dict[str, Any], dict[str, Any], Waveform], None, None]:
    """Rows in the order of their containers, each with what it gains and its samples: none when it cannot be taken."""
    # Spans of one recording stand together, so that it is fetched once.
    ordered = sorted(rows, key=lambda row: locators.order(row["audio"]))
    recordings = [(audio, list(spans)) for audio, spans in itertools.groupby(ordered, key=lambda row: row["audio"])]
    with closing(fetch.fetch_all(audio for audio, _ in recordings)) as fetched:
        for (_, spans), got in zip(recordings, fetched, strict=True):
            for row in spans:
                yield row, *_decode(got, row, sample_rate_hz, limits)


def _decode(
    got: fetch.Fetched | AudioError, row: dict[str, Any], sample_rate_hz: int, limits: AudioSection
) -> tuple[dict[str, Any], Waveform]:
    try:
        if isinstance(got, AudioError):
            raise got
        waveform = decode(got.data, sample_rate_hz, start_s=row["start_s"], end_s=row["end_s"], limits=limits)
        return {"sha256": got.sha256}, waveform
    except AudioError as error:
        why = {"error": error.reason, "message": str(error), "rejected_s": error.audio_s}
        return why, np.empty(0, np.float32)


def _piece(rows: Sequence[dict[str, Any]], waveforms: Sequence[Waveform]) -> pa.Table:
    offsets = np.cumsum([0, *(len(waveform) for waveform in waveforms)])
    samples = pa.LargeListArray.from_arrays(offsets, np.concatenate(waveforms))
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in PIECE_SCHEMA][:-1]
    return pa.table([*columns, samples], schema=PIECE_SCHEMA)

"""Rows of a manifest shard -> pieces: tables of decoded audio, with the reason beside every row that has none.

A piece is as much of a shard as fits a budget of audio seconds, so that memory is bounded by the budget and not by
what a shard happens to hold. Where pieces are cut follows from the shard alone: redoing one gives the same pieces.
"""

import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from cslm import contracts
from cslm.data import fetch, intake, locators, manifest
from cslm.data.intake import Intake, Row
from cslm.errors import AudioError, ContractError
from cslm.speech.audio import Recording, Waveform

_MAX_FIT_SHARDS = 16
_FETCHED_TOGETHER = 32
# A long recording is looked at no further than this to fit a tokenizer: other speakers tell it more.
_LONGEST_FIT_S = 300.0

# `part_of`: the row of the manifest that the utterance was cut from. `settles`: whether with it its row of the manifest
# is accepted or rejected, null where another utterance of the row decides. `trimmed_s`: silence beside the utterances.
PIECE_SCHEMA = pa.schema(
    [
        *contracts.load("utterances").schema,
        pa.field("sha256", pa.string()),
        pa.field("part_of", pa.string()),
        pa.field("settles", pa.string()),
        pa.field("audio_digest", pa.string()),
        pa.field("text_changes", pa.list_(pa.string())),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("rejected_s", pa.float64()),
        pa.field("trimmed_s", pa.float64()),
        pa.field("samples", pa.large_list(pa.float32())),
    ]
)


def decode_shard(
    shard: pa.Table, sample_rate_hz: int, settings: Intake, piece_s: float
) -> Generator[tuple[pa.Table, bool], None, None]:
    """Decode the utterances of a shard: (piece, whether it is the last) with columns of PIECE_SCHEMA.

    Faults of the data become `error` and `message` of their row; an OSError of the storage is raised.
    """
    rows: list[Row] = []
    waveforms: list[Waveform] = []
    held_s = 0.0
    for found, waveform in _utterances(shard.to_pylist(), sample_rate_hz, settings):
        if held_s >= piece_s:
            yield _piece(rows, waveforms), False
            rows, waveforms, held_s = [], [], 0.0
        rows.append(found)
        waveforms.append(waveform)
        held_s += len(waveform) / sample_rate_hz
    yield _piece(rows, waveforms), True


def waveforms_of(piece: pa.Table) -> list[Waveform]:
    """Samples (T,) of each row of a piece, views of its memory; empty where the row has an error."""
    column = piece.column("samples").combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    return [values[start:end] for start, end in itertools.pairwise(offsets)]


def sample(output: str, seconds: float, sample_rate_hz: int, settings: Intake, seed: int) -> list[Waveform]:
    """About `seconds` of decoded audio of the training split, the same share of every language; equal for equal seeds.

    Utterances that are not taken are passed over. Without a training split all splits count. Raises ContractError when
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
                openers = {audio: _Opener(got) for audio, got in zip(together, results, strict=True)}
            for row in some:
                utterances = intake.utterances(row, openers[row["audio"]], settings, sample_rate_hz, _LONGEST_FIT_S)
                for found, waveform in utterances:
                    if "message" in found:
                        faults[found["message"]] += 1
                    elif left_s > 0:
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


def _utterances(
    rows: Iterable[Row], sample_rate_hz: int, settings: Intake
) -> Generator[tuple[Row, Waveform], None, None]:
    """The utterances of rows (see `intake.utterances`), in the order of the rows' containers."""
    # Spans of one recording stand together, so that it is fetched and opened once.
    ordered = sorted(rows, key=lambda row: locators.order(row["audio"]))
    recordings = [(audio, list(spans)) for audio, spans in itertools.groupby(ordered, key=lambda row: row["audio"])]
    with closing(fetch.fetch_all(audio for audio, _ in recordings)) as fetched:
        for (_, spans), got in zip(recordings, fetched, strict=True):
            opener = _Opener(got)
            for row in spans:
                yield from intake.utterances(row, opener, settings, sample_rate_hz)


class _Opener:
    """Opens what was fetched, once for all its rows; calling it raises the AudioError that kept it from being read."""

    def __init__(self, got: fetch.Result) -> None:
        self._got = got
        self._opened: tuple[Recording, str] | None = None

    def __call__(self) -> tuple[Recording, str]:
        if isinstance(self._got, AudioError):
            raise self._got
        if self._opened is None:
            self._opened = (Recording(self._got.data), self._got.sha256)
        return self._opened


def _piece(rows: Sequence[dict[str, Any]], waveforms: Sequence[Waveform]) -> pa.Table:
    offsets = np.cumsum([0, *(len(waveform) for waveform in waveforms)])
    samples = pa.LargeListArray.from_arrays(offsets, np.concatenate(waveforms))
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in PIECE_SCHEMA][:-1]
    return pa.table([*columns, samples], schema=PIECE_SCHEMA)

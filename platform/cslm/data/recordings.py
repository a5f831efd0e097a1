"""Rows of a manifest shard -> pieces: tables of decoded audio, with the reason beside every row that has none.

A piece is as much of a shard as fits a budget of audio seconds, so that memory is bounded by the budget and not by
what a shard happens to hold. Where pieces are cut follows from the shard alone: redoing one gives the same pieces.
"""

import errno
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cslm import contracts, storage
from cslm.data import manifest
from cslm.errors import AudioError, ContractError
from cslm.speech.audio import AudioSection, Waveform, decode

_MAX_FIT_SHARDS = 16

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
) -> Iterator[tuple[pa.Table, bool]]:
    """Decode the utterances of a shard: (piece, whether it is the last) with columns of PIECE_SCHEMA.

    Faults of the data become `error` and `message` of their row; an OSError of the storage is raised.
    """
    reader = _Recordings(sample_rate_hz, limits)
    rows: list[dict[str, Any]] = []
    waveforms: list[Waveform] = []
    held_s = 0.0
    left = shard.num_rows
    # Spans of one recording stand together, so that it is fetched once.
    for row in sorted(shard.to_pylist(), key=lambda row: str(row["audio"])):
        found, waveform = reader.read(row)
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
    reader = _Recordings(sample_rate_hz, limits)
    taken: list[Waveform] = []
    faults: Counter[str] = Counter()
    for number, language in enumerate(languages):
        rng = np.random.default_rng([seed, number])
        names = [shard["name"] for shard in shards if shard["language"] == language]
        chosen = [names[i] for i in rng.permutation(len(names))[:_MAX_FIT_SHARDS]]
        rows = pa.concat_tables([manifest.read_shard(output, name) for name in chosen])
        left_s = seconds / len(languages)
        for position in rng.permutation(rows.num_rows):
            found, waveform = reader.read(rows.slice(position, 1).to_pylist()[0])
            if "message" in found:
                faults[found["message"]] += 1
            else:
                taken.append(waveform)
                left_s -= len(waveform) / sample_rate_hz
            if left_s <= 0:
                break
    if not taken:
        raise ContractError(
            f"corpus.manifest: must have audio that can be decoded, found none in {faults.total()} rows that were "
            f"tried; of one of them: {next(iter(faults))}"
        )
    return taken


class _Recordings:
    """Decodes rows, keeping the last file for the next span of it."""

    def __init__(self, sample_rate_hz: int, limits: AudioSection) -> None:
        self._sample_rate_hz, self._limits = sample_rate_hz, limits
        self._held: tuple[str, bytes, str] | None = None

    def read(self, row: dict[str, Any]) -> tuple[dict[str, Any], Waveform]:
        """What the row gains, and its samples: none when the row cannot be taken."""
        try:
            data, digest = self._fetch(row["audio"])
            span = {"start_s": row["start_s"], "end_s": row["end_s"]}
            return {"sha256": digest}, decode(data, self._sample_rate_hz, **span, limits=self._limits)
        except AudioError as error:
            why = {"error": error.reason, "message": str(error), "rejected_s": error.audio_s}
            return why, np.empty(0, np.float32)

    def _fetch(self, uri: str) -> tuple[bytes, str]:
        if self._held is None or self._held[0] != uri:
            try:
                data = storage.read_bytes(uri)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _missing(uri, "nothing") from error
            except IsADirectoryError as error:
                raise _missing(uri, "a folder") from error
            except ValueError as error:  # no path at all: an unknown scheme, a zero byte
                raise _missing(uri, str(error)) from error
            except OSError as error:
                if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                    raise _missing(uri, str(error)) from error
                raise OSError(error.errno, error.strerror or str(error), uri) from error
            self._held = (uri, data, hashlib.sha256(data).hexdigest())
        return self._held[1], self._held[2]


def _missing(uri: str, found: str) -> AudioError:
    return AudioError("missing", f"there must be an audio file at {uri}, found {found}; bring the file or drop the row")


def _piece(rows: Sequence[dict[str, Any]], waveforms: Sequence[Waveform]) -> pa.Table:
    offsets = np.cumsum([0, *(len(waveform) for waveform in waveforms)])
    samples = pa.LargeListArray.from_arrays(offsets, np.concatenate(waveforms))
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in PIECE_SCHEMA][:-1]
    return pa.table([*columns, samples], schema=PIECE_SCHEMA)

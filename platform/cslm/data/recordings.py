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
from cslm.data import intake, manifest
from cslm.data.intake import Intake, Row
from cslm.errors import AudioError, ContractError
from cslm.speech.audio import Recording, Waveform

_MAX_FIT_SHARDS = 16
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
) -> Iterator[tuple[pa.Table, bool]]:
    """Decode the utterances of a shard: (piece, whether it is the last) with columns of PIECE_SCHEMA.

    Faults of the data become `error` and `message` of their row; an OSError of the storage is raised.
    """
    reader = _Recordings(sample_rate_hz, settings)
    rows: list[Row] = []
    waveforms: list[Waveform] = []
    held_s = 0.0
    # Spans of one recording stand together, so that it is fetched once.
    for row in sorted(shard.to_pylist(), key=lambda row: str(row["audio"])):
        for found, waveform in reader.utterances(row):
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
    reader = _Recordings(sample_rate_hz, settings)
    taken: list[Waveform] = []
    faults: Counter[str] = Counter()
    for number, language in enumerate(languages):
        rng = np.random.default_rng([seed, number])
        names = [shard["name"] for shard in shards if shard["language"] == language]
        chosen = [names[i] for i in rng.permutation(len(names))[:_MAX_FIT_SHARDS]]
        rows = pa.concat_tables([manifest.read_shard(output, name) for name in chosen])
        left_s = seconds / len(languages)
        for position in rng.permutation(rows.num_rows):
            for found, waveform in reader.utterances(rows.slice(position, 1).to_pylist()[0], _LONGEST_FIT_S):
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


class _Recordings:
    """Decodes rows, keeping the last file for the next span of it."""

    def __init__(self, sample_rate_hz: int, settings: Intake) -> None:
        self._sample_rate_hz, self._settings = sample_rate_hz, settings
        self._held: tuple[str, bytes, str] | None = None
        self._opened: tuple[bytes, Recording] | None = None

    def utterances(
        self, row: dict[str, Any], first_s: float | None = None
    ) -> Iterator[tuple[dict[str, Any], Waveform]]:
        """The utterances of a row and their samples: see `intake.utterances`."""
        return intake.utterances(row, lambda: self._open(row), self._settings, self._sample_rate_hz, first_s)

    def _open(self, row: Row) -> tuple[Recording, str]:
        data, digest = self._fetch(row["audio"])
        if self._opened is None or self._opened[0] is not data:
            self._opened = (data, Recording(data))
        return self._opened[1], digest

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

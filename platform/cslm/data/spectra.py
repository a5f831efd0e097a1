"""Shards of a manifest -> spectra with their transcripts, which training of the recogniser goes over many times.

What is kept of an utterance is what comes before normalisation: augmentation works on it. Half precision takes 16 KB a
second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cslm import contracts, storage
from cslm.config import fingerprint
from cslm.data import manifest, recordings
from cslm.data.intake import Intake
from cslm.speech.recogniser import features

FOLDER = "spectra"
_PIECE_S = 600.0
_SAMPLES_A_FRAME = 320


@dataclass(frozen=True)
class Spectrum:
    """An utterance: log-mel frames (2F, 80) in half precision, and what was said."""

    id: str
    language: str
    speaker: str | None
    split: str
    text: str
    log_mel: NDArray[np.float16]

    @property
    def seconds(self) -> float:
        """Length of its audio."""
        return len(self.log_mel) * features.HOP / features.SAMPLE_RATE_HZ


def key(shard: dict[str, Any], intake: Intake, longest_s: float) -> str:
    """Changes when the spectra of a shard would."""
    return fingerprint([shard["digest"], intake.key(), longest_s, features.VERSION])


def write_shard(output: str, shard: dict[str, Any], intake: Intake, longest_s: float) -> dict[str, Any]:
    """Decode a shard and write the spectra of its utterances that have a transcript; what was written is not redone.

    Returns counts: `utterances` and `audio_s` written, `reasons` why rows are not. An OSError of the storage is raised.
    """
    path = storage.join(output, FOLDER, f"{shard['name']}.parquet")
    record = storage.join(output, FOLDER, f"{shard['name']}.json")
    wanted = key(shard, intake, longest_s)
    if storage.exists(record):
        known = storage.read_json(record)
        if known["key"] == wanted:
            return dict(known)
    rows: list[dict[str, Any]] = []
    reasons: dict[str, int] = {}
    table = manifest.read_shard(output, shard["name"])
    for piece, _ in recordings.decode_shard(table, features.SAMPLE_RATE_HZ, intake, _PIECE_S):
        waveforms = recordings.waveforms_of(piece)
        for row, samples in zip(piece.drop_columns(["samples"]).to_pylist(), waveforms, strict=True):
            fault = row["error"] or _fault(row["text"], len(samples) / features.SAMPLE_RATE_HZ, longest_s)
            if fault:
                reasons[fault] = reasons.get(fault, 0) + 1
                continue
            num_frames = 2 * max(1, len(samples) // _SAMPLES_A_FRAME)
            log_mel = features.log_mel(torch.tensor(samples), num_frames).half().numpy()
            kept = {name: row[name] for name in ("id", "language", "speaker", "split", "text")}
            rows.append({**kept, "log_mel": log_mel.tobytes()})
    found = pa.Table.from_pylist(rows, _SCHEMA)
    storage.write_table(found, path)
    audio_s = sum(len(row["log_mel"]) for row in rows) / (2 * features.NUM_MELS) / 100
    counts = {"key": wanted, "utterances": len(rows), "audio_s": audio_s, "reasons": reasons}
    storage.write_json(record, counts)
    return counts


def read(output: str, names: Sequence[str]) -> list[Spectrum]:
    """The spectra of shards, in the order of the shards and their rows."""
    found = []
    for name in names:
        for row in storage.read_table(storage.join(output, FOLDER, f"{name}.parquet")).to_pylist():
            log_mel = np.frombuffer(row.pop("log_mel"), np.float16).reshape(-1, features.NUM_MELS)
            found.append(Spectrum(**row, log_mel=log_mel))
    return found


def _fault(text: str | None, seconds: float, longest_s: float) -> str | None:
    if not text:
        return "no_transcript"
    return "too_long_to_learn_from" if seconds > longest_s else None


_SCHEMA = pa.schema(
    [
        *(contracts.load("utterances").schema.field(name) for name in ("id", "language", "speaker", "split", "text")),
        pa.field("log_mel", pa.large_binary()),
    ]
)

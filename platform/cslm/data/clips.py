"""Utterances with their units and their sound, which training of the speech decoder goes over many times.

The units table names the audio; a file of it is a shard here. Samples are kept in 16 bits: 32 KB a second at 16 kHz.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from cslm import contracts, storage
from cslm.config import fingerprint
from cslm.data import unit_audio
from cslm.data.ledger import Entry
from cslm.errors import AudioError, CheckpointError
from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.voices import VoiceSums

FOLDER = "clips"
# What speaks where the table names nobody.
NOBODY = "voice"
# Goes up when the same utterances get other clips.
_VERSION = 1


@dataclass(frozen=True)
class Clip:
    """An utterance: merged units (U,), how many frames each lasts (U,), and samples (T,) in 16 bits."""

    id: str
    language: str
    speaker: str
    text: str
    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]
    samples: NDArray[np.int16]
    rate_hz: int

    @property
    def num_frames(self) -> int:
        """Frames of its units."""
        return int(self.durations.sum(dtype=np.int64))

    @property
    def seconds(self) -> float:
        """Length of its audio."""
        return len(self.samples) / self.rate_hz


def write_shard(
    output: str,
    units: str,
    shard: Entry,
    tokenizer: str,
    mel: MelShape,
    speakers: Sequence[str] | None,
    most: int | None = None,
) -> dict[str, Any]:
    """Read the audio of a file of units and write its clips, of some speakers or all; what was written is not redone.

    `most`: no more than the first so many by id. Returns counts: `clips` and `audio_s` written, `rejected` and
    `reasons` of those without audio (see the table `rejects`), and `voices`: sums of each speaker. Raises
    CheckpointError for units of another tokenizer than the one of the fingerprint `tokenizer`.
    """
    record = storage.join(output, FOLDER, f"{shard['name']}.json")
    wanted = fingerprint([shard["digest"], mel.config(), speakers and sorted(speakers), most, _VERSION])
    if storage.exists(record):
        known = storage.read_json(record)
        if known["key"] == wanted:
            return dict(known)
    taken: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    mels: dict[str, list[Tensor]] = {}
    for row, got in unit_audio.read(_rows(units, shard, tokenizer, speakers, most), mel.sample_rate_hz):
        if isinstance(got, AudioError):
            of_row = {name: row[name] for name in ("id", "source", "part_of", "start_s", "end_s")}
            rejects.append({**of_row, "stage": "audio", "error": got.reason, "message": str(got)})
            continue
        samples = (np.clip(got, -1, 1) * 32767).round().astype(np.int16)
        speaker = row["speaker"] or NOBODY
        mels.setdefault(speaker, []).append(mel.log_mel(torch.tensor(got)[None])[0])
        kept = {name: row[name] for name in ("id", "units", "durations")}
        text = {"language": shard["language"], "speaker": speaker, "text": row["text"] or ""}
        taken.append({**kept, **text, "samples": samples.tobytes()})
    storage.write_table(pa.Table.from_pylist(taken, _SCHEMA), storage.join(output, FOLDER, f"{shard['name']}.parquet"))
    place = storage.join(output, "rejects", f"{shard['name']}.parquet")
    if rejects:
        storage.write_table(contracts.load("rejects").table(rejects), place)
    else:
        storage.remove(place)
    counts = {
        "key": wanted,
        "clips": len(taken),
        "audio_s": sum(len(row["samples"]) for row in taken) / 2 / mel.sample_rate_hz,
        "rejected": len(rejects),
        "reasons": dict(Counter(row["error"] for row in rejects)),
        "voices": {speaker: asdict(VoiceSums.of(of_one)) for speaker, of_one in mels.items()},
    }
    storage.write_json(record, counts)
    return counts


def read(output: str, names: Sequence[str], rate_hz: int, share: tuple[int, int] = (0, 1)) -> list[Clip]:
    """The clips of shards, in the order of the shards and their rows; of all of them every n-th from the k-th on."""
    found = []
    first, step = share
    for name in names:
        table = storage.read_table(storage.join(output, FOLDER, f"{name}.parquet"))
        taken = np.arange(first, table.num_rows, step)
        first = (first - table.num_rows) % step
        for row in table.take(taken).to_pylist():
            samples = np.frombuffer(row["samples"], np.int16)
            units, durations = (np.array(row[one], np.uint16) for one in ("units", "durations"))
            told = {one: row[one] for one in ("id", "language", "speaker", "text")}
            found.append(Clip(**told, units=units, durations=durations, samples=samples, rate_hz=rate_hz))
    return found


def _rows(
    units: str, shard: Entry, tokenizer: str, speakers: Sequence[str] | None, most: int | None
) -> list[dict[str, Any]]:
    rows = storage.read_table(storage.join(units, shard["file"]), columns=_COLUMNS).to_pylist()
    others = sorted({row["tokenizer"] for row in rows} - {tokenizer})
    if others:
        raise CheckpointError(
            f"data.units: all units must be of the tokenizer {tokenizer} that lies beside them, found {others[0]} in "
            f"{shard['file']}; tokenize the corpus again, or bring that tokenizer"
        )
    rows = [row for row in rows if speakers is None or (row["speaker"] or NOBODY) in speakers]
    return sorted(rows, key=lambda row: row["id"])[:most]


_COLUMNS = (
    "id", "part_of", "speaker", "text", "units", "durations", "tokenizer",
    "start_s", "end_s", "source", "source_sha256",
)  # fmt: skip
_SCHEMA = pa.schema(
    [
        *(contracts.load("units").schema.field(name) for name in ("id", "units", "durations")),
        *(pa.field(name, pa.string()) for name in ("language", "speaker", "text")),
        pa.field("samples", pa.large_binary()),
    ]
)

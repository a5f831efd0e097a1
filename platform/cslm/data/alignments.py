"""Files of the units table -> files of the table `alignments`, with the reason beside every utterance that has none.

A file of units is a shard here: its alignments lie in a file of the same name in the same folder of theirs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cslm import contracts, storage
from cslm.config import fingerprint
from cslm.data import unit_audio
from cslm.data.ledger import Entry
from cslm.errors import AudioError, ContractError
from cslm.speech.aligned import Aligned, Fault
from cslm.speech.audio import Waveform

_NO_TRANSCRIPT = {
    "stage": "text",
    "error": "no_transcript",
    "message": "an utterance must have a text to be aligned with, found none",
}
_REQUESTS_AT_ONCE = 32
_COLUMNS = (
    "id", "part_of", "text", "num_frames", "frame_rate_hz", "start_s", "end_s", "tokenizer", "source", "source_sha256",
)  # fmt: skip
# In the metadata of a piece: how many rows of its shard were not asked for.
_SKIPPED = "skipped"
_REJECTS_OF_ROW = ("id", "source", "stage", "error", "message", "part_of", "start_s", "end_s")
_PIECE_SCHEMA = pa.schema(
    [
        *(contracts.load("units").schema.field(name).with_nullable(True) for name in _COLUMNS),
        pa.field("language", pa.string()),
        pa.field("split", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("samples", pa.large_list(pa.float32())),
    ]
)


def shards(units: str, languages: Sequence[str] | None, splits: Sequence[str] | None) -> list[Entry]:
    """The files of a units table, of some languages and splits or all: name, file, language, split, rows, audio_s.

    Raises ContractError for a file that lies in no folders `language=../split=..`.
    """
    found: dict[str, Entry] = {}
    for entry in storage.list_entries(units, ".parquet"):
        place = entry.uri.removeprefix(units).strip("/")
        folders = dict(part.split("=", 1) for part in place.split("/")[:-1] if "=" in part)
        if not {"language", "split"} <= folders.keys():
            raise ContractError(
                f"data.units: files of a units table must lie in folders language=../split=.., found {entry.uri}; give "
                "the output folder of jobs/tokenize.py"
            )
        if (languages and folders["language"] not in languages) or (splits and folders["split"] not in splits):
            continue
        name = shard_of(place)
        if name in found:
            raise ContractError(f"data.units: names of files must differ, found {place} and {found[name]['file']}")
        facts = {"name": name, "file": place, "language": folders["language"], "split": folders["split"]}
        found[name] = {**facts, "digest": fingerprint([place, entry.size, entry.mtime_ns])}
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        counted = pool.map(lambda shard: _counted(storage.join(units, shard["file"])), found.values())
        return [{**shard, **counts} for shard, counts in zip(found.values(), counted, strict=True)]


def shard_of(path: str) -> str:
    """The shard of a file of units or alignments, by its path in the table, or of a file of rejects, by its name."""
    parts = path.removesuffix(".parquet").split("/")
    return ".".join(part.partition("=")[2] or part for part in parts)


def answers(dialogues: str) -> list[str]:
    """Ids of the utterances that the assistant speaks in a dialogues table, sorted."""
    turns = storage.read_table(dialogues, columns=["turns"]).column("turns")
    flat = pc.list_flatten(turns)
    spoken = pc.struct_field(flat, "audio").filter(pc.equal(pc.struct_field(flat, "role"), "assistant"))
    return sorted(pc.unique(spoken.drop_null()).to_pylist())


def asked(units: str, shard: Entry, ids: pa.Array | None) -> pa.Table:
    """The rows of a shard that are to be aligned; all, or those with one of the ids."""
    table = storage.read_table(storage.join(units, shard["file"]), columns=_COLUMNS)
    return table if ids is None else table.filter(pc.is_in(table.column("id"), ids))


def decode(rows: pa.Table, shard: Entry, sample_rate_hz: int) -> pa.Table:
    """The same rows with their samples, in the order of their containers; faults become `error` and `message`."""
    place = {"language": shard["language"], "split": shard["split"]}
    found: list[dict[str, Any]] = []
    waveforms: list[Waveform] = []
    for row, got in unit_audio.read(rows.to_pylist(), sample_rate_hz):
        fault = {} if row["text"] else _NO_TRANSCRIPT
        if isinstance(got, AudioError):
            fault = fault or {"stage": "audio", "error": got.reason, "message": str(got)}
        found.append({**row, **place, **fault})
        waveforms.append(np.empty(0, np.float32) if fault or isinstance(got, AudioError) else got)
    offsets = np.cumsum([0, *(len(waveform) for waveform in waveforms)])
    samples = pa.LargeListArray.from_arrays(offsets, np.concatenate([np.empty(0, np.float32), *waveforms]))
    columns = [pa.array([row.get(field.name) for row in found], field.type) for field in _PIECE_SCHEMA][:-1]
    skipped = {_SKIPPED: str(shard["rows"] - rows.num_rows)}
    return pa.table([*columns, samples], schema=_PIECE_SCHEMA.with_metadata(skipped))


def tables(
    rows: Sequence[Mapping[str, Any]], results: Sequence[Aligned | Fault], aligner: str
) -> tuple[pa.Table, pa.Table]:
    """Rows of the units table with what became of each -> the tables `alignments` and `rejects`."""
    aligned, rejected = [], []
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Fault):
            told = {"stage": row.get("stage") or "align", "error": result.error, "message": result.message}
            rejected.append({**{name: row.get(name) for name in _REJECTS_OF_ROW}, **told})
        else:
            aligned.append(
                {
                    **{name: row[name] for name in ("id", "num_frames", "tokenizer", "language", "split")},
                    "words": words_in_frames(row["text"], result, row["frame_rate_hz"], row["num_frames"]),
                    "score": result.score,
                    "aligner": aligner,
                }
            )
    return contracts.load("alignments").table(aligned), contracts.load("rejects").table(rejected)


def words_in_frames(text: str, aligned: Aligned, frame_rate_hz: float, num_frames: int) -> list[dict[str, Any]]:
    """The words of an utterance in the frames of its units, within 0 .. num_frames and in order."""
    found = []
    for (start, end), time in zip(aligned.spans, aligned.times, strict=True):
        frames = [min(max(round(at_s * frame_rate_hz), 0), num_frames) for at_s in (time.start_s, time.end_s)]
        place = {"start_frame": frames[0], "end_frame": frames[1]}
        found.append({"text": text[start:end], **place, "score": time.score})
    return found


def write(output: str, shard: Entry, alignments: pa.Table, rejects: pa.Table) -> None:
    """Write the tables of a shard; tables without rows are not written."""
    if alignments.num_rows:
        contract = contracts.load("alignments")
        table = contract.check(alignments, shard["file"]).drop_columns(list(contract.partition_columns))
        storage.write_table(table, storage.join(output, "alignments", shard["file"]))
    if rejects.num_rows:
        table = contracts.load("rejects").check(rejects, shard["name"])
        storage.write_table(table, storage.join(output, "rejects", f"{shard['name']}.parquet"))


def counts(piece: pa.Table, alignments: pa.Table, rejects: pa.Table, sample_rate_hz: int) -> Entry:
    """What is counted: `rows` of units = `skipped` + `accepted` + `rejected`, which `reasons` adds up to."""
    words = alignments.column("words").to_pylist()
    skipped = int(piece.schema.metadata[_SKIPPED.encode()])
    return {
        "rows": alignments.num_rows + rejects.num_rows + skipped,
        "skipped": skipped,
        "accepted": alignments.num_rows,
        "rejected": rejects.num_rows,
        "reasons": dict(Counter(rejects.column("error").to_pylist())),
        "audio_s": float(pc.sum(pc.list_value_length(piece.column("samples"))).as_py() or 0) / sample_rate_hz,
        "words": sum(map(len, words)),
        "silent_words": sum(word["score"] is None for of_one in words for word in of_one),
        "score_sum": float(pc.sum(alignments.column("score")).as_py() or 0.0),
    }


def _counted(file: str) -> dict[str, Any]:
    with storage.open_input(file) as stream:
        table = pq.read_table(stream, columns=["duration_s"])
    return {"rows": table.num_rows, "audio_s": float(pc.sum(table.column("duration_s")).as_py() or 0.0)}

"""Files of the units table -> files of the alignments table: the shards of the align job, and what becomes of a row."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.data import recordings
from cslm.data.filters import FiltersSection
from cslm.data.intake import Intake
from cslm.data.ledger import Entry
from cslm.errors import ContractError
from cslm.speech import aligned
from cslm.speech.aligned import Aligned, LimitsSection
from cslm.speech.aligners import Aligner
from cslm.speech.audio import AudioSection, Channels
from cslm.speech.segment import SegmentSection

TABLE = "alignments"
_COLUMNS = (
    "id", "text", "num_frames", "frame_rate_hz", "tokenizer", "source", "source_sha256", "start_s", "end_s", "speaker",
)  # fmt: skip
# Audio that is held decoded at a time.
_PIECE_S = 300.0
_LONGEST_S = 24 * 3600.0


def shards(units: str, languages: Sequence[str] | None, splits: Sequence[str] | None) -> list[Entry]:
    """The files of a units table as shards of work, in order of their names; of some languages and splits only."""
    found = []
    for entry in storage.list_entries(units, ".parquet"):
        relative = entry.uri.removeprefix(units).strip("/")
        place = dict(part.split("=", 1) for part in relative.split("/")[:-1] if "=" in part)
        if any(
            wanted and place.get(name) not in wanted for name, wanted in (("language", languages), ("split", splits))
        ):
            continue
        name = shard_name(relative)
        rows = storage.parquet_schema(entry.uri)[1]
        if not {"language", "split"} <= place.keys():
            raise ContractError(
                f"data.units: files must lie in folders language=.../split=..., found {relative}; "
                "give the output of jobs/tokenize.py"
            )
        digest = storage.digest(units, [entry])
        found.append({"name": name, "file": entry.uri, "relative": relative, "rows": rows, "digest": digest, **place})
    return found


def shard_name(relative: str) -> str:
    """The name of the shard of a file, by its path below the table: one that can be a file's name itself."""
    return relative.removesuffix(".parquet").replace("/", "__")


def intake(channels: Channels) -> Intake:
    """Takes every recording as it is: it was taken before, when its units were made."""
    audio = AudioSection(min_s=1e-3, max_s=_LONGEST_S, channels=channels)
    filters = FiltersSection(
        min_level_dbfs=None, max_clipped=None, min_speaking_rate=None, max_speaking_rate=None, duplicate_audio=False
    )
    return Intake(audio, SegmentSection(by="none"), filters)


def read_shard(shard: Entry, wanted: pa.Array | None) -> pa.Table:
    """The rows of a shard that are asked for: all, or those of the ids `wanted`."""
    table = storage.read_rows(shard["file"], _COLUMNS)
    return table if wanted is None else table.filter(pc.is_in(table.column("id"), value_set=wanted))


def clips(shard: Entry, rows: pa.Table, channels: Channels, rate_hz: int) -> Iterator[tuple[list[Entry], list[Any]]]:
    """Rows with their samples (T,) at `rate_hz`, a stretch of audio at a time; `error` says why a row has none."""
    if not rows.num_rows:
        return
    by_id = {row["id"]: row for row in rows.to_pylist()}
    names = ("id", "speaker", "text", "start_s", "end_s")
    utterances = contracts.load("utterances").table(
        [
            {**{name: row[name] for name in names}, "audio": row["source"]}
            | {"language": shard["language"], "split": shard["split"]}
            for row in by_id.values()
        ]
    )
    for piece, _ in recordings.decode_shard(utterances, rate_hz, intake(channels), _PIECE_S):
        found = []
        for one in piece.drop_columns(["samples"]).to_pylist():
            row = {**by_id[one["id"]], **{name: one[name] for name in ("stage", "error", "message")}}
            if row["error"] is None and one["sha256"] != row["source_sha256"]:
                row |= {"stage": "audio", "error": "source_changed"}
                row["message"] = (
                    f"the audio must be what the units were made from, sha256 {row['source_sha256'][:16]}, found "
                    f"{one['sha256'][:16]}; bring it back, or tokenize the corpus again"
                )
            found.append(row)
        yield found, recordings.waveforms_of(piece)


def align_shard(
    shard: Entry,
    wanted: pa.Array | None,
    aligner: Aligner,
    fingerprint: str,
    *,
    channels: Channels,
    latency_s: float,
    limits: LimitsSection,
) -> tuple[pa.Table, pa.Table, Entry]:
    """Alignments, rejects and counts of a shard. Of the rows asked for each is in one of the tables."""
    rows = read_shard(shard, wanted)
    silent = pc.equal(pc.utf8_length(pc.fill_null(rows.column("text"), "")), 0)
    rejects = [
        _reject(row, "text", "no_transcript", "an utterance must have a text to be aligned to, found none")
        for row in rows.filter(silent).to_pylist()
    ]
    found: list[dict[str, Any]] = []
    audio_s = 0.0
    for members, waveforms in clips(shard, rows.filter(pc.invert(silent)), channels, aligner.sample_rate_hz):
        taken = [number for number, row in enumerate(members) if row["error"] is None]
        rejects += [_reject(row, row["stage"], row["error"], row["message"]) for row in members if row["error"]]
        samples = [waveforms[number] for number in taken]
        audio_s += sum(map(len, samples)) / aligner.sample_rate_hz
        texts = [members[number]["text"] for number in taken]
        results = aligned.align(aligner, samples, texts, shard["language"], latency_s, limits)
        for number, result in zip(taken, results, strict=True):
            row = members[number]
            if isinstance(result, Aligned):
                found.append(_row(row, result, shard, fingerprint))
            else:
                rejects.append(_reject(row, "align", result.error, result.message))
    reasons: dict[str, int] = {}
    for reject in rejects:
        reasons[reject["error"]] = reasons.get(reject["error"], 0) + 1
    counts = {
        "rows": rows.num_rows,
        "accepted": len(found),
        "rejected": len(rejects),
        "reasons": reasons,
        "audio_s": audio_s,
        "words": sum(len(row["words"]) for row in found),
        "silent_words": sum(word["score"] is None for row in found for word in row["words"]),
        "score_sum": float(sum(row["score"] for row in found)),
    }
    return contracts.load(TABLE).table(found), contracts.load("rejects").table(rejects), counts


def write(output: str, shard: Entry, alignments: pa.Table, rejects: pa.Table) -> None:
    """Write the tables of a shard under the names that belong to it."""
    if alignments.num_rows:
        contract = contracts.load(TABLE)
        table = alignments.drop_columns(
            [name for name in contract.partition_columns if f"{name}=" in shard["relative"]]
        )
        storage.write_table(table, storage.join(output, TABLE, shard["relative"]))
    if rejects.num_rows:
        storage.write_table(rejects, storage.join(output, "rejects", f"{shard['name']}.parquet"))


def _row(row: Entry, result: Aligned, shard: Entry, fingerprint: str) -> dict[str, Any]:
    text, num_frames = row["text"], row["num_frames"]
    starts, ends = (
        np.rint(np.array(times_s, np.float64) * row["frame_rate_hz"]).astype(np.int64).clip(0, num_frames)
        for times_s in ([one.start_s for one in result.times], [one.end_s for one in result.times])
    )
    # A word that sounds has a frame, unless the next one begins in the same.
    sounding = np.array([one.score is not None for one in result.times], bool)
    ends = np.where(sounding, np.maximum(ends, starts + 1), starts)
    ends = np.maximum(starts, np.minimum(ends, np.append(starts[1:], num_frames)))
    words = [
        {"text": text[first:last], "start_frame": int(start), "end_frame": int(end), "score": one.score}
        for (first, last), one, start, end in zip(result.spans, result.times, starts, ends, strict=True)
    ]
    return {
        "id": row["id"],
        "words": words,
        "num_frames": num_frames,
        "score": result.score,
        "aligner": fingerprint,
        "tokenizer": row["tokenizer"],
        "language": shard["language"],
        "split": shard["split"],
    }


def _reject(row: Entry, stage: str, error: str, message: str) -> dict[str, Any]:
    span = {"start_s": row["start_s"], "end_s": row["end_s"]}
    return {"id": row["id"], "source": row["source"], "stage": stage, "error": error, "message": message, **span}

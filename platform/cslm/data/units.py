"""Decoded pieces -> rows of the units and rejects tables, and what is counted about them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from cslm import contracts, storage
from cslm.data import sources
from cslm.data.counts import utterance_counts
from cslm.data.recordings import waveforms_of
from cslm.speech.tokenizer import SpeechTokenizer, encode_all

# Columns of the tables that are those of the piece.
_UNITS_OF_ROW = ("id", "part_of", "speaker", "text", "language", "split", "start_s", "end_s", "audio_digest")
_REJECTS_OF_ROW = ("id", "stage", "error", "message", "part_of", "start_s", "end_s")


def tokenize_piece(piece: pa.Table, tokenizer: SpeechTokenizer) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Units, rejects and counts of a piece (see `data.recordings`).

    Counts are of two kinds. Rows of the manifest: `rows` = `accepted` + `rejected`, which `reasons` adds up to.
    Utterances: `utterances` in the units table, `spans` of them and `rejected_spans` (with `span_reasons`) cut from
    longer recordings; a recording that was split is one row, accepted when one of its utterances is.
    """
    waveforms = waveforms_of(piece)
    rows = piece.drop_columns(["samples"]).to_pylist()
    taken = [i for i, row in enumerate(rows) if row["error"] is None]
    sequences = encode_all(tokenizer, [waveforms[i] for i in taken])
    units = contracts.load("units").table(
        [
            {
                **{name: rows[i][name] for name in _UNITS_OF_ROW},
                "units": sequence.units,
                "durations": sequence.durations,
                "num_frames": sequence.num_frames,
                "frame_rate_hz": tokenizer.frame_rate_hz,
                "duration_s": len(waveforms[i]) / tokenizer.sample_rate_hz,
                "tokenizer": tokenizer.fingerprint,
                "source": rows[i]["audio"],
                "source_sha256": rows[i]["sha256"],
            }
            for i, sequence in zip(taken, sequences, strict=True)
        ]
    )
    rejected = [row for row in rows if row["error"] is not None]
    rejects = contracts.load("rejects").table(
        [{**{name: row[name] for name in _REJECTS_OF_ROW}, "source": row["audio"]} for row in rejected]
    )
    num_settled = Counter(row["settles"] for row in rows)
    rejected_spans = [row for row in rejected if row["part_of"] is not None]
    counts = {
        "rows": num_settled["accepted"] + num_settled["rejected"],
        "accepted": num_settled["accepted"],
        "rejected": num_settled["rejected"],
        "reasons": _counted(row["error"] for row in rejected if row["part_of"] is None),
        "rejected_spans": len(rejected_spans),
        "span_reasons": _counted(row["error"] for row in rejected_spans),
        "text_changes": _counted(name for row in rows for name in row["text_changes"] or ()),
        "rejected_s": _sum(row["rejected_s"] for row in rows),
        "trimmed_s": _sum(row["trimmed_s"] for row in rows),
        **utterance_counts(units, tokenizer.codebook_size),
    }
    return units, rejects, counts


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names))


def _sum(seconds: Iterable[float | None]) -> float:
    return float(sum(value or 0.0 for value in seconds))


def unmerged(units: pa.Table) -> pa.Table:
    """The same utterances with a unit for every frame: repeats are not merged, and every duration is one frame."""
    codes = [
        np.repeat(one, lengths)
        for one, lengths in zip(
            *(sources.number_lists(units.column(name)) for name in ("units", "durations")), strict=True
        )
    ]
    for name, lists in (("units", codes), ("durations", [np.ones(len(one), np.uint16) for one in codes])):
        place = units.schema.get_field_index(name)
        units = units.set_column(place, units.schema.field(place), pa.array(lists, units.schema.field(place).type))
    return units


def write_unmerged(source: str, target: str) -> None:
    """Write `unmerged` of a tokenize job's output to another folder, its tokenizer beside it; once."""
    table, tokenizer = (storage.join(target, name) for name in ("units", "tokenizer"))
    if storage.exists(tokenizer):
        return
    folder = storage.join(source, "units")
    for file in storage.list_files(folder, ".parquet"):
        # Its folder tells the columns that the table is partitioned by.
        rows = unmerged(storage.read_table(file))
        rows = contracts.load("units").only(rows.column_names).check(rows, file)
        storage.write_table(rows, storage.join(table, file.removeprefix(folder).strip("/")))
    # Last, so that it tells that the table is whole.
    there = storage.join(source, "tokenizer")
    with storage.published_folder(tokenizer) as here:
        for file in storage.list_files(there):
            storage.write_bytes(storage.join(here, file.removeprefix(there).strip("/")), storage.read_bytes(file))

"""Decoded pieces -> rows of the units and rejects tables, and what is counted about them."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from cslm import contracts
from cslm.data.recordings import waveforms_of
from cslm.speech.tokenizer import SpeechTokenizer, encode_all

# Upper edges of the histogram of durations; the last bin is open.
DURATION_EDGES_S = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 60)


def tokenize_piece(piece: pa.Table, tokenizer: SpeechTokenizer) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Units, rejects and counts of a piece (see `data.recordings`). Accepted and rejected rows are all rows."""
    waveforms = waveforms_of(piece)
    rows = piece.drop_columns(["samples"]).to_pylist()
    taken = [i for i, row in enumerate(rows) if row["error"] is None]
    sequences = encode_all(tokenizer, [waveforms[i] for i in taken])
    units = [
        {
            **{name: rows[i][name] for name in ("id", "speaker", "text", "language", "split")},
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
    rejects = [
        {"id": row["id"], "source": row["audio"], "stage": "audio", "error": row["error"], "message": row["message"]}
        for row in rows
        if row["error"] is not None
    ]
    durations_s = [row["duration_s"] for row in units]
    codes = np.concatenate([sequence.units for sequence in sequences]) if sequences else np.empty(0, np.uint16)
    counts = {
        "rows": len(rows),
        "accepted": len(units),
        "rejected": len(rejects),
        "reasons": dict(Counter(row["error"] for row in rejects)),
        "audio_s": float(sum(durations_s)),
        "rejected_s": float(sum(row["rejected_s"] or 0 for row in rows)),
        "frames": sum(sequence.num_frames for sequence in sequences),
        "units": len(codes),
        "duration_counts": np.bincount(
            np.searchsorted(DURATION_EDGES_S, durations_s), minlength=len(DURATION_EDGES_S) + 1
        ).tolist(),
        "unit_counts": np.bincount(codes, minlength=tokenizer.codebook_size).tolist(),
    }
    return contracts.load("units").table(units), contracts.load("rejects").table(rejects), counts

"""What is counted about utterances: in a piece when it is tokenized, and again when some are set aside later."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cslm.data.filters import spoken_characters

# Upper edges of the histogram of durations; the last bin is open.
DURATION_EDGES_S = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 60)


def utterance_counts(units: pa.Table, codebook_size: int) -> dict[str, Any]:
    """Counts of rows of the units table.

    `spans` are the utterances that were cut from longer recordings; `characters` over `transcribed_s` is how many are
    spoken a second.
    """
    durations_s = units.column("duration_s").to_numpy().astype(np.float64)
    codes = pc.list_flatten(units.column("units")).to_numpy()
    texts = units.column("text").to_pylist()
    has_text = np.array([bool(text) for text in texts], bool)
    return {
        "utterances": units.num_rows,
        "spans": units.num_rows - units.column("part_of").null_count,
        "audio_s": float(durations_s.sum()),
        "transcribed_s": float(durations_s[has_text].sum()),
        "characters": float(sum(spoken_characters(text) for text in texts if text)),
        "frames": int(units.column("num_frames").to_numpy().sum()),
        "units": len(codes),
        "duration_counts": np.bincount(
            np.searchsorted(DURATION_EDGES_S, durations_s), minlength=len(DURATION_EDGES_S) + 1
        ).tolist(),
        "unit_counts": np.bincount(codes, minlength=codebook_size).tolist(),
    }

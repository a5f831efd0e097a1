"""A picture of what the align job made: utterances of some languages with their units and words."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as pads

from cslm import storage
from cslm.apps import drawing
from cslm.speech.alignment import stretches
from cslm.speech.audio import AudioSection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_SAMPLES = 4
_RATE_HZ = 16_000
_LIMITS = AudioSection(min_s=1e-3, max_s=1e6)
_COLUMNS = ("id", "text", "units", "durations", "frame_rate_hz", "source", "start_s", "end_s")


def samples(output: str, units: str) -> "Figure | None":
    """Spectrograms of up to four utterances, each of another language where there are, with their units and words.

    None without any alignments. An utterance whose audio cannot be read any more is passed over.
    """
    from matplotlib.figure import Figure

    table = storage.join(output, "alignments")
    chosen = drawing.rows_of_languages(table, ("id", "words"), _NUM_SAMPLES)
    rows = []
    for row in chosen:
        file = storage.join(units, row["file"].removeprefix(table).strip("/"))
        of_units = storage.read_table(file, columns=_COLUMNS, filter=pads.field("id") == row["id"]).to_pylist()
        rows += [{**row, **one} for one in of_units]
    shown = drawing.with_audio(rows, _RATE_HZ, _LIMITS)
    if not shown:
        return None
    picture = Figure(figsize=(16, 3.6 * len(shown)), layout="constrained")
    for axes, (row, waveform) in zip(np.atleast_1d(picture.subplots(len(shown), 1)), shown, strict=True):
        drawing.spectrogram(axes, waveform, _RATE_HZ)
        axes.set_xlim(0, min(len(waveform) / _RATE_HZ, drawing.LONGEST_SHOWN_S))
        drawing.units(axes, row)
        _words(axes, row)
        drawing.title(axes, row)
    return picture


def _words(axes: "Axes", row: dict[str, Any]) -> None:
    """Each word over the units that are its own."""
    edges_s = np.concatenate(([0], np.cumsum(row["durations"]))) / row["frame_rate_hz"]
    top = axes.get_ylim()[1]
    for stretch in stretches(row["durations"], row["words"]):
        start_s, end_s = edges_s[stretch.start], edges_s[stretch.end]
        if stretch.word is None or start_s >= drawing.LONGEST_SHOWN_S:
            continue
        axes.axvspan(start_s, end_s, ymax=0.14, color=("tab:cyan", "tab:green")[stretch.word % 2], alpha=0.75)
        axes.axvline(start_s, color="cyan", linewidth=1.0)
        axes.text(
            (start_s + min(end_s, drawing.LONGEST_SHOWN_S)) / 2,
            top * 0.07,
            row["words"][stretch.word]["text"],
            fontsize=9,
            ha="center",
            va="center",
            clip_on=True,
        )

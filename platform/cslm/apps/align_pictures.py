"""A picture of what the align job made: spectrograms of some utterances with their units and their words."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cslm import storage
from cslm.apps import speech_pictures
from cslm.data import alignments, fetch
from cslm.errors import AudioError
from cslm.speech.alignment import stretches
from cslm.speech.audio import Channels, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RATE_HZ = 16_000
_NUM_SAMPLES, _LOOKED_AT = 4, 50
_COLUMNS = ["id", "text", "units", "durations", "frame_rate_hz", "source", "start_s", "end_s"]


def samples(output: str, units: str, channels: Channels) -> "Figure | None":
    """Up to four utterances, of different languages where there are; None without any that can be read."""
    from matplotlib.figure import Figure

    limits = alignments.intake(channels).audio
    shown = []
    for row in _chosen(output, units):
        try:
            recording = Recording(fetch.fetch(row["source"]).data)
            span = {"start_s": row["start_s"], "end_s": row["end_s"]}
            shown.append((row, recording.clip(_RATE_HZ, **span, limits=limits).samples))
        except (AudioError, OSError):
            continue
    if not shown:
        return None
    picture = Figure(figsize=(14, 3.6 * len(shown)), layout="constrained")
    for axes, (row, waveform) in zip(np.atleast_1d(picture.subplots(len(shown), 1)), shown, strict=True):
        speech_pictures.spectrogram(axes, waveform, _RATE_HZ)
        speech_pictures.units(axes, row)
        _words(axes, row)
        axes.set(title=f"{row['id']}  ({row['language']})  {row['text']}"[:110], ylabel="Hz", xlabel="s")
    return picture


def _chosen(output: str, units: str) -> list[dict[str, Any]]:
    """Rows of the units table with their words, languages by turns."""
    folder = storage.join(output, alignments.TABLE)
    by_language: dict[str, str] = {}
    for file in storage.list_files(folder, ".parquet"):
        by_language.setdefault(file.removeprefix(folder).partition("/split=")[0], file)
    rows: list[dict[str, Any]] = []
    for place, file in sorted(by_language.items()):
        # Of the first rows those with the most words: single words show little.
        aligned = storage.read_rows(file, ["id", "words"], 0, _LOOKED_AT).to_pylist()
        aligned = sorted(aligned, key=lambda row: -len(row["words"]))[:_NUM_SAMPLES]
        unit_file = storage.join(units, file.removeprefix(folder).strip("/"))
        known = {row["id"]: row for row in storage.read_rows(unit_file, _COLUMNS).to_pylist()}
        language = place.rpartition("=")[2]
        for rank, row in enumerate(aligned):
            rows.append({**known[row["id"]], "words": row["words"], "language": language, "rank": rank})
    return sorted(rows, key=lambda row: row["rank"])[:_NUM_SAMPLES]


def _words(axes: "Axes", row: dict[str, Any]) -> None:
    """A bar for each word below the units that are its own, with its text."""
    top = axes.get_ylim()[1]
    edges_s = np.concatenate(([0], np.cumsum(row["durations"]))) / row["frame_rate_hz"]
    for one in stretches(row["durations"], row["words"]):
        start_s, end_s = edges_s[one.start], edges_s[one.end]
        if start_s >= speech_pictures.LONGEST_SHOWN_S:
            break
        if one.word is None:
            continue
        number, word = one.word, row["words"][one.word]
        axes.axvspan(start_s, end_s, ymin=0, ymax=0.12, color="white", alpha=0.55 if number % 2 else 0.8, linewidth=0)
        axes.axvline(start_s, color="lime", linewidth=1.2)
        axes.text((start_s + end_s) / 2, 0.06 * top, word["text"], fontsize=9, ha="center", va="center", clip_on=True)

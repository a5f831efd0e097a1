"""What pictures of utterances share: which are shown, their audio, the spectrogram, and the units on it."""

import io
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cslm import storage
from cslm.data import fetch
from cslm.errors import AudioError
from cslm.speech.audio import AudioSection, Recording, Waveform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_SHOWN_S = 4.0
# 25 ms windows every 5 ms: fine enough to see where a unit begins.
_WINDOW_S, _STEP_S = 0.025, 0.005


def rows_of_languages(table: str, columns: Sequence[str], num_rows: int) -> list[dict[str, Any]]:
    """First rows of a table that is partitioned by language, each of another language if possible."""
    by_language: dict[str, list[str]] = {}
    for file in storage.list_files(table, ".parquet"):
        by_language.setdefault(file.removeprefix(table).partition("/split=")[0], []).append(file)
    rows: list[dict[str, Any]] = []
    for place, of_language in sorted(by_language.items()):
        language = place.rpartition("=")[2]
        for number, row in enumerate(storage.dataset(of_language[0]).head(num_rows, columns=list(columns)).to_pylist()):
            rows.append({**row, "language": language, "rank": number, "file": of_language[0]})
    return sorted(rows, key=lambda row: row["rank"])[:num_rows]


def with_audio(
    rows: Iterable[dict[str, Any]], rate_hz: int, limits: AudioSection
) -> list[tuple[dict[str, Any], Waveform]]:
    """Rows of the units table with their samples (T,); one whose audio cannot be read any more is passed over."""
    shown = []
    for row in rows:
        try:
            recording = Recording(fetch.fetch(row["source"]).data)
            span = {"start_s": row["start_s"], "end_s": row["end_s"]}
            shown.append((row, recording.clip(rate_hz, **span, limits=limits).samples))
        except (AudioError, OSError):
            continue
    return shown


def spectrogram(axes: "Axes", waveform: Waveform, rate_hz: int) -> None:
    """The first seconds of a clip."""
    window = round(_WINDOW_S * rate_hz)
    shown = waveform[: round(LONGEST_SHOWN_S * rate_hz)]
    # The logarithm of digital silence is no number: a little noise stands in for it.
    audible = shown + 1e-5 * np.random.default_rng(0).standard_normal(len(shown))
    axes.specgram(audible, NFFT=window, Fs=rate_hz, noverlap=window - round(_STEP_S * rate_hz), cmap="magma")
    axes.set_ylim(0, min(8000, rate_hz / 2))


def units(axes: "Axes", row: dict[str, Any]) -> None:
    """A line where each unit begins, and its number."""
    at_s = 0.0
    top = axes.get_ylim()[1]
    for unit, frames in zip(row["units"], row["durations"], strict=True):
        if at_s >= LONGEST_SHOWN_S:
            break
        length_s = frames / row["frame_rate_hz"]
        axes.axvline(at_s, color="white", linewidth=0.4, alpha=0.6)
        middle_s = at_s + length_s / 2
        axes.text(middle_s, top * 0.97, str(unit), rotation=90, fontsize=6, color="white", ha="center", va="top")
        at_s += length_s


def png(figure: "Figure") -> bytes:
    """A picture as a file's content. Letters that no font of this machine has are boxes in it, without a warning."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def title(axes: "Axes", row: dict[str, Any]) -> None:
    """Which utterance it is."""
    text = f"{row['id']}  ({row['language']})  {row['text'] or ''}"
    axes.set(title=text[:110], ylabel="Hz", xlabel="s")

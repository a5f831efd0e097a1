"""Speech as pictures, for every job that shows some: spectrograms, and the units below them."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_SHOWN_S = 4.0
# 25 ms windows every 5 ms: fine enough to see where a unit begins.
_WINDOW_S, _STEP_S = 0.025, 0.005


def spectrogram(axes: "Axes", waveform: Any, rate_hz: int) -> None:
    """The spectrogram of a waveform (T,) up to `LONGEST_SHOWN_S`."""
    window = round(_WINDOW_S * rate_hz)
    shown = waveform[: round(LONGEST_SHOWN_S * rate_hz)]
    # The logarithm of digital silence is no number: a little noise stands in for it.
    audible = shown + 1e-5 * np.random.default_rng(0).standard_normal(len(shown))
    axes.specgram(audible, NFFT=window, Fs=rate_hz, noverlap=window - round(_STEP_S * rate_hz), cmap="magma")
    axes.set_ylim(0, min(8000, rate_hz / 2))


def units(axes: "Axes", row: dict[str, Any]) -> None:
    """A line where each unit of a row of the units table begins, and its number."""
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

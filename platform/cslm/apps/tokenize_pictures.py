"""Pictures of what the tokenize job made: the corpus by its counts, and two utterances with their units."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cslm import storage
from cslm.data import fetch
from cslm.data.counts import DURATION_EDGES_S
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, add_counts
from cslm.errors import AudioError
from cslm.speech.audio import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_SAMPLES = 2
_LONGEST_SHOWN_S = 4.0
# 25 ms windows every 5 ms: fine enough to see where a unit begins.
_WINDOW_S, _STEP_S = 0.025, 0.005


def corpus(summary: dict[str, Any], entries: Sequence[Entry], tokenizer: dict[str, Any]) -> "Figure":
    """Durations, units a second by language, how evenly the codebook is used, and why rows were rejected."""
    from matplotlib.figure import Figure

    by_language: dict[str, Entry] = {}
    names = ("audio_s", "units", "duration_counts", "unit_counts")
    for entry in entries:
        counts = {name: entry[name] for name in names}
        by_language[entry["language"]] = add_counts(by_language.get(entry["language"], {}), counts)
    picture = Figure(figsize=(16, 3.6), layout="constrained")
    durations, rates, usage, reasons = picture.subplots(1, 4)
    labels = [f"<{edge:g}" for edge in DURATION_EDGES_S] + [f">{DURATION_EDGES_S[-1]:g}"]
    bottom = np.zeros(len(labels))
    for language, counts in sorted(by_language.items()):
        durations.bar(labels, counts["duration_counts"], bottom=bottom, label=language)
        bottom += counts["duration_counts"]
        used = np.sort(np.array(counts["unit_counts"], float))[::-1]
        share = used / max(used.sum(), 1)
        perplexity = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
        usage.plot(share, label=f"{language}: perplexity {perplexity:.0f}")
    durations.set(title="durations", xlabel="s", ylabel="utterances")
    durations.tick_params(axis="x", rotation=60)
    languages = sorted(by_language)
    rates.bar(languages, [by_language[one]["units"] / max(by_language[one]["audio_s"], 1e-9) for one in languages])
    rates.set(title="units a second", ylim=(0, tokenizer["frame_rate_hz"]))
    usage.set(title=f"codebook of {tokenizer['codebook_size']}", xlabel="unit by rank", ylabel="share", yscale="log")
    for axes in (durations, usage):
        axes.legend(fontsize=7)
    found = sorted(summary["rows"]["reasons"].items(), key=lambda item: item[1])
    reasons.barh([name for name, _ in found], [count for _, count in found])
    rows = summary["rows"]
    reasons.set(title=f"{rows['rejected']:,} of {rows['manifest']:,} rows rejected", xlabel="rows")
    return picture


def samples(output: str, tokenizer: dict[str, Any], intake: Intake) -> "Figure | None":
    """Spectrograms of two utterances, of two languages where there are, with their units; None without any units.

    An utterance whose audio cannot be read any more is passed over.
    """
    from matplotlib.figure import Figure

    chosen = _chosen(output)
    rate_hz = tokenizer["sample_rate_hz"]
    shown = []
    for row in chosen:
        try:
            recording = Recording(fetch.fetch(row["source"]).data)
            span = {"start_s": row["start_s"], "end_s": row["end_s"]}
            shown.append((row, recording.clip(rate_hz, **span, limits=intake.audio).samples))
        except (AudioError, OSError):
            continue
    if not shown:
        return None
    picture = Figure(figsize=(14, 3.4 * len(shown)), layout="constrained")
    for axes, (row, waveform) in zip(np.atleast_1d(picture.subplots(len(shown), 1)), shown, strict=True):
        _spectrogram(axes, waveform, rate_hz)
        _units(axes, row)
        title = f"{row['id']}  ({row['language']})  {row['text'] or ''}"
        axes.set(title=title[:110], ylabel="Hz", xlabel="s")
    return picture


def _chosen(output: str) -> list[dict[str, Any]]:
    """Rows of the units table, each of another language if possible."""
    folder = storage.join(output, "units")
    files = storage.list_files(folder, ".parquet")
    by_language: dict[str, list[str]] = {}
    for file in files:
        by_language.setdefault(file.removeprefix(folder).partition("/split=")[0], []).append(file)
    rows: list[dict[str, Any]] = []
    columns = ["id", "text", "units", "durations", "frame_rate_hz", "source", "start_s", "end_s"]
    for place, of_language in sorted(by_language.items()):
        language = place.rpartition("=")[2]
        for number, row in enumerate(storage.dataset(of_language[0]).head(_NUM_SAMPLES, columns=columns).to_pylist()):
            rows.append({**row, "language": language, "rank": number})
    return sorted(rows, key=lambda row: row["rank"])[:_NUM_SAMPLES]


def _spectrogram(axes: "Axes", waveform: Any, rate_hz: int) -> None:
    window = round(_WINDOW_S * rate_hz)
    shown = waveform[: round(_LONGEST_SHOWN_S * rate_hz)]
    # The logarithm of digital silence is no number: a little noise stands in for it.
    audible = shown + 1e-5 * np.random.default_rng(0).standard_normal(len(shown))
    axes.specgram(audible, NFFT=window, Fs=rate_hz, noverlap=window - round(_STEP_S * rate_hz), cmap="magma")
    axes.set_ylim(0, min(8000, rate_hz / 2))


def _units(axes: "Axes", row: dict[str, Any]) -> None:
    """A line where each unit begins, and its number."""
    at_s = 0.0
    top = axes.get_ylim()[1]
    for unit, frames in zip(row["units"], row["durations"], strict=True):
        if at_s >= _LONGEST_SHOWN_S:
            break
        length_s = frames / row["frame_rate_hz"]
        axes.axvline(at_s, color="white", linewidth=0.4, alpha=0.6)
        middle_s = at_s + length_s / 2
        axes.text(middle_s, top * 0.97, str(unit), rotation=90, fontsize=6, color="white", ha="center", va="top")
        at_s += length_s

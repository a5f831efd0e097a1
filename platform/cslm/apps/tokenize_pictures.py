"""Pictures of what the tokenize job made: the corpus by its counts, and two utterances with their units."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cslm import storage
from cslm.apps import speech_pictures
from cslm.data import fetch
from cslm.data.counts import DURATION_EDGES_S
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, add_counts
from cslm.errors import AudioError
from cslm.speech.audio import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_SAMPLES = 2


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
        speech_pictures.spectrogram(axes, waveform, rate_hz)
        speech_pictures.units(axes, row)
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

"""Pictures of what the tokenize job made: the corpus by its counts, and two utterances with their units."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cslm import storage
from cslm.apps import drawing
from cslm.data.counts import DURATION_EDGES_S
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, add_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_SAMPLES = 2
_COLUMNS = ("id", "text", "units", "durations", "frame_rate_hz", "source", "start_s", "end_s")


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

    rate_hz = tokenizer["sample_rate_hz"]
    chosen = drawing.rows_of_languages(storage.join(output, "units"), _COLUMNS, _NUM_SAMPLES)
    shown = drawing.with_audio(chosen, rate_hz, intake.audio)
    if not shown:
        return None
    picture = Figure(figsize=(14, 3.4 * len(shown)), layout="constrained")
    for axes, (row, waveform) in zip(np.atleast_1d(picture.subplots(len(shown), 1)), shown, strict=True):
        drawing.spectrogram(axes, waveform, rate_hz)
        drawing.units(axes, row)
        drawing.title(axes, row)
    return picture

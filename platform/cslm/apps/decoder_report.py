"""What the decoder job tells when it is done: a table, metrics, samples as sound, a picture, and the folder's card."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile
from rich.table import Table

from cslm import storage
from cslm.apps import drawing
from cslm.apps.job import Job
from cslm.data.clips import Clip
from cslm.evaluate import resynthesis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = "samples"
_PICTURE = "samples.png"
_TOLD = {
    "original": "original",
    "vocoder": "true mel, vocoder",
    "true_durations": "true durations",
    "own_voice": "all predicted, own voice",
    "resynthesis": "all predicted, default voice",
}
_SIZES = ("duration_error_frames", "mel_distance_db", "times_real_time")
Samples = Sequence[tuple[Clip, "np.ndarray[Any, Any]"]]


def close(
    job: Job,
    key: Any,
    described: dict[str, Any],
    result: dict[str, Any],
    table: pa.Table,
    learned: Sequence[dict[str, Any]],
    samples: Samples,
) -> None:
    """Tell all that was measured, keep samples, and complete the job."""
    metrics = resynthesis.metrics_of(table)
    _show(job, metrics, table.num_rows)
    job.run.log_metrics({f"eval/decoder/{name}": value for name, value in metrics.items()})
    _write_samples(job, samples, described["sample_rate_hz"])
    storage.write_text(storage.join(job.output, "decoder", "README.md"), card(described, metrics, table.num_rows))
    summary = {
        "decoder": {name: described[name] for name in ("kind", "fingerprint", "tokenizer", "default_speaker")}
        | {"speakers": len(described["speakers"]), "vocoder": described["network"]["vocoder"]["kind"]},
        "learned_from": {
            "utterances": sum(shard["clips"] for shard in learned),
            "hours": round(sum(shard["audio_s"] for shard in learned) / 3600, 3),
        },
        "training": {name: value for name, value in result.items() if name != "identity"},
        "metrics": {name: round(value, 5) for name, value in metrics.items()},
        "measured_utterances": table.num_rows,
    }
    job.complete(key, summary)


def _show(job: Job, metrics: dict[str, float], num_rows: int) -> None:
    languages = [name.split("/")[1] for name in metrics if name.startswith("original/")]
    if languages:
        shown = Table(title=f"character error of {num_rows:,} held-out utterances, and its ratio", title_justify="left")
        shown.add_column("heard")
        for language in languages:
            shown.add_column(language, justify="right")
        for variant, told in _TOLD.items():
            cells = []
            for language in languages:
                ratio = metrics.get(f"{variant}/{language}/ratio")
                error = f"{metrics[f'{variant}/{language}/cer']:.1%}"
                cells.append(error if ratio is None else f"{error}  x{ratio:.2f}")
            shown.add_row(told, *cells)
        job.console.print(shown)
    if not metrics:
        return
    job.say(
        f"durations are wrong by {metrics['duration_error_frames']:.3f} frames a unit, the mel by "
        f"{metrics['mel_distance_db']:.2f} dB; it speaks {metrics['times_real_time']:,.0f} times as quick as real time"
    )


def card(described: dict[str, Any], metrics: dict[str, float], num_rows: int) -> str:
    """The model card, Markdown."""
    languages = [name.split("/")[1] for name in metrics if name.startswith("original/")]
    lines = [f"# Speech decoder {described['fingerprint']}", ""]
    if described["kind"] == "griffin_lim":
        lines += ["Untrained: the mean spectrum of every unit, made audible by Griffin-Lim. A stand-in.", ""]
    lines += [
        f"Speaks the units of the tokenizer {described['tokenizer']} at {described['sample_rate_hz']:,} Hz, in "
        f"{len(described['speakers']):,} voices; {described['default_speaker']} where nobody is asked for.",
        "",
        "| character error | " + " | ".join(languages) + " |",
        "|---|" + "---|" * len(languages),
    ]
    for variant, told in _TOLD.items():
        if languages:
            cells = [f"{metrics[f'{variant}/{language}/cer']:.2%}" for language in languages]
            lines.append(f"| {told} | " + " | ".join(cells) + " |")
    if metrics:
        lines += ["", f"On {num_rows:,} held-out utterances, as the recogniser hears them. " + _sizes(metrics)]
    lines.append("")
    lines += ["```python", "from cslm.speech import decoder", "", 'samples = decoder.load("THIS_FOLDER").speak(units)']
    return "\n".join([*lines, "```", ""])


def _sizes(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in _SIZES)


def _write_samples(job: Job, samples: Samples, rate_hz: int) -> None:
    if not samples:
        return
    for clip, made in samples:
        for name, sound in (("original", clip.samples), ("resynthesis", (made * 32767).astype(np.int16))):
            buffer = io.BytesIO()
            soundfile.write(buffer, sound, rate_hz, format="WAV", subtype="PCM_16")
            # An id may be a path.
            place = f"{clip.id.replace('/', '_')}.{name}.wav"
            storage.write_bytes(storage.join(job.output, SAMPLES, place), buffer.getvalue())
    figure = picture(samples, rate_hz)
    storage.write_bytes(storage.join(job.output, _PICTURE), drawing.png(figure))
    job.run.log_figure(figure, _PICTURE)


def picture(samples: Samples, rate_hz: int) -> "Figure":
    """Spectrograms of each sample, the original above what the decoder made of its units."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4 * len(samples)), layout="constrained")
    panels = figure.subplots(2 * len(samples), 1)
    for number, (clip, made) in enumerate(samples):
        for axes, sound, told in (
            (panels[2 * number], (clip.samples / 32768).astype(np.float32), "original"),
            (panels[2 * number + 1], made, "resynthesis"),
        ):
            drawing.spectrogram(axes, sound, rate_hz)
            axes.set_xlim(0, min(max(len(clip.samples), len(made)) / rate_hz, drawing.LONGEST_SHOWN_S))
            axes.set(title=f"{told}: {clip.id}  ({clip.language})  {clip.text}"[:110], ylabel="Hz", xlabel="s")
    return figure

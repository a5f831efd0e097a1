"""How well a speech decoder speaks: held-out utterances are made units and sound again, and recognised.

Each part is judged alone and together, against the recognised original: the vocoder from the true mel; the mel from
true durations; all of it, in the voice of the utterance; and all of it in the voice that the decoder answers with.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cslm.data.clips import Clip
from cslm.speech.decoder import SpeechDecoder
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.transcript import edit_counts

# In the order of what they leave to the decoder.
VARIANTS = ("original", "vocoder", "true_durations", "own_voice", "resynthesis")
_DB = 20 / np.log(10)  # decibels of a natural logarithm of a magnitude
_RECOGNISER_HZ = 16_000


def measure(
    decoder: SpeechDecoder, recogniser: Recogniser | None, clips: Sequence[Clip], voices: Mapping[str, Any]
) -> pa.Table:
    """A row for each clip: texts as recognised, edits, duration error, mel distance and time taken.

    `voices` has the voice (V,) of each clip's speaker. Nothing is recognised without a recogniser.
    """
    rows = [_row(decoder, recogniser, clip, voices[clip.speaker]) for clip in clips]
    return pa.Table.from_pylist(rows, SCHEMA)


def resynthesis(decoder: SpeechDecoder, clip: Clip) -> NDArray[np.float32]:
    """A clip as the decoder says it: in its default voice, with durations of its own."""
    return decoder.speak(clip.units)


def metrics_of(table: pa.Table) -> dict[str, float]:
    """Figures over all rows of `measure`, by name; error rates and ratios by language, and over all languages alike.

    `<variant>/<language>/cer`, `<variant>/<language>/ratio` (over the original's), `<variant>/mean/..` (means over
    languages), `duration_error_frames`, `mel_distance_db`, `times_real_time`. Nothing for no rows.
    """
    rows = table.to_pylist()
    found: dict[str, float] = {}
    if not rows:
        return found
    languages = sorted({row["language"] for row in rows if row["characters"]})
    for variant in VARIANTS:
        rates = {}
        for language in languages:
            of_one = [row for row in rows if row["language"] == language and row["characters"]]
            characters = sum(row["characters"] for row in of_one)
            rates[language] = sum(row[f"{variant}_errors"] for row in of_one) / characters
        if rates:
            rates["mean"] = sum(rates.values()) / len(rates)
        for name, rate in rates.items():
            found[f"{variant}/{name}/cer"] = rate
            original = found[f"{VARIANTS[0]}/{name}/cer"]
            if variant != VARIANTS[0] and original > 0:
                found[f"{variant}/{name}/ratio"] = rate / original
    num_units = sum(row["num_units"] for row in rows)
    found["duration_error_frames"] = sum(row["duration_error"] for row in rows) / max(num_units, 1)
    found["mel_distance_db"] = float(np.mean([row["mel_distance_db"] for row in rows]))
    found["times_real_time"] = sum(row["spoken_s"] for row in rows) / max(sum(row["taken_s"] for row in rows), 1e-9)
    return found


@torch.no_grad()
def _row(decoder: SpeechDecoder, recogniser: Recogniser | None, clip: Clip, voice: Any) -> dict[str, Any]:
    speaking, rate_hz = decoder.speaking, decoder.sample_rate_hz
    wanted = clip.num_frames * decoder.samples_a_frame
    original = clip.samples.astype(np.float32) / 32768
    fitted = np.pad(original[:wanted], (0, max(0, wanted - len(original))))
    true_mel_FM = speaking.mel_shape.log_mel(torch.from_numpy(fitted)[None].to(decoder.device))[0]
    voice_V = decoder.voice_named(np.asarray(voice, np.float32))
    units_U = torch.from_numpy(clip.units.astype(np.int64)).to(decoder.device)
    true_U = torch.from_numpy(clip.durations.astype(np.int64)).to(decoder.device)
    mel_FM = decoder.mel(units_U.repeat_interleave(true_U), voice_V)
    started_s = time.process_time()
    spoken = resynthesis(decoder, clip)
    taken_s = time.process_time() - started_s
    sounds = {
        "original": original,
        "vocoder": speaking.samples(true_mel_FM).cpu().numpy(),
        "true_durations": speaking.samples(mel_FM).cpu().numpy(),
        "own_voice": decoder.speak(clip.units, speaker=np.asarray(voice, np.float32)),
        "resynthesis": spoken,
    }
    texts: list[str | None] = [None] * len(VARIANTS)
    if recogniser is not None and clip.text:
        texts = list(recogniser.texts([_at_recogniser(sounds[name], rate_hz) for name in VARIANTS]))
    row: dict[str, Any] = {"id": clip.id, "language": clip.language, "speaker": clip.speaker, "text": clip.text}
    for name, text in zip(VARIANTS, texts, strict=True):
        edits = None if text is None else edit_counts(clip.text, text)
        row |= {f"{name}_text": text, f"{name}_errors": edits and edits.character_errors}
        row["characters"] = edits and edits.characters
    return {
        **row,
        "num_units": len(units_U),
        "duration_error": int((decoder.durations(units_U, voice_V) - true_U).abs().sum()),
        "mel_distance_db": float((mel_FM - true_mel_FM).abs().mean()) * _DB,
        "spoken_s": len(spoken) / rate_hz,
        "taken_s": taken_s,
    }


def _at_recogniser(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    if rate_hz == _RECOGNISER_HZ:
        return samples
    import soxr

    found: NDArray[np.float32] = soxr.resample(samples, rate_hz, _RECOGNISER_HZ, "HQ")
    return found


SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "language", "speaker", "text")),
        *(pa.field(f"{name}_text", pa.string()) for name in VARIANTS),
        *(pa.field(f"{name}_errors", pa.int32()) for name in VARIANTS),
        *(pa.field(name, pa.int32()) for name in ("characters", "num_units", "duration_error")),
        *(pa.field(name, pa.float64()) for name in ("mel_distance_db", "spoken_s", "taken_s")),
    ]
)

"""A model is asked: items in, rows of the table `predictions` out, with what a listener hears in the speech.

What is recorded here is what the model gave and what was heard; whether it is any good is told later, from the rows.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cslm import storage
from cslm.data import fetch
from cslm.errors import AudioError, ConfigError
from cslm.evaluate import hearing
from cslm.evaluate.hearing import Listener
from cslm.evaluate.items import Item
from cslm.lm.generate import Generator, Prompt, Response, Sampling, Turn
from cslm.speech.audio import AudioSection, Recording

Float32 = NDArray[np.float32]
Row = dict[str, Any]
# Gives the samples (T,) of units, and their rate.
Speak = Callable[[Sequence[int]], tuple[Float32, int]]
# Recordings are taken as they are.
_ANY_LENGTH = AudioSection(min_s=1e-3, max_s=24 * 3600.0)


class Examiner:
    """Asks a model, and listens to what it says where there is a voice to say it and someone to hear it."""

    def __init__(
        self, generator: Generator, sampling: Sampling, speak: Speak | None, listener: Listener | None, output: str
    ) -> None:
        """`output`: the folder that samples of speech are written below."""
        self._generator, self._sampling = generator, sampling
        self._speak, self._listener, self._output = speak, listener, output

    def __call__(self, items: Sequence[Item]) -> list[Row]:
        """One row for each item."""
        prompts = [prompt(item) for item in items]
        fitting = [place for place, one in enumerate(prompts) if self._fits(one)]
        responses = self._generator.generate(
            [prompts[place] for place in fitting], self._sampling, batch_size=max(len(fitting), 1)
        )
        rows = [_row(item, None) for item in items]
        for place, response in zip(fitting, responses, strict=True):
            rows[place] = _row(items[place], response)
        if self._listener is not None:
            self._listen(items, rows, self._listener)
        return rows

    def _fits(self, asked: Prompt) -> bool:
        """Whether a prompt leaves room for an answer. One that does not gets none, which counts as a wrong one."""
        try:
            self._generator.prompt_ids(asked, self._sampling)
        except ConfigError as error:
            if not error.faults[0].startswith("prompt:"):
                raise
            return False
        return True

    def _listen(self, items: Sequence[Item], rows: Sequence[Row], listener: Listener) -> None:
        """Add what is heard in the speech of answers, and in the recordings of references."""
        by_language: dict[str, list[tuple[Row, str, Float32]]] = {}
        for item, row in zip(items, rows, strict=True):
            spoken = by_language.setdefault(item.answer_language, [])
            if self._speak is not None and row["units"] is not None:
                row["spoken"], row["speech_s"] = "", 0.0
                if row["units"]:
                    samples, rate_hz = self._speak(row["units"])
                    row["speech_s"] = len(samples) / rate_hz
                    if item.is_sample:
                        row["sample"] = _write(self._output, item, samples, rate_hz)
                    spoken.append((row, "spoken", resampled(samples, rate_hz)))
            recording = None if item.recording is None else recorded(*item.recording)
            if recording is not None:
                spoken.append((row, "original", recording))
        for language, heard in by_language.items():
            texts = listener.texts([samples for _, _, samples in heard], language)
            for (row, column, _), text in zip(heard, texts, strict=True):
                row[column] = text


def references(items: Iterable[Item]) -> list[Row]:
    """What a model would give that makes no mistake: every output is the reference, and speech says just that."""
    rows = []
    for item in items:
        task = item.kind_of_task
        row = _common(item) | {"output": "" if task == "tts" else item.reference, "stop": "end"}
        if task == "answer":
            row["heard"] = item.question
        if task in ("tts", "answer"):
            row["spoken"] = item.reference
        rows.append(row)
    return rows


def prompt(item: Item) -> Prompt:
    """An item as the generator is asked it. A user's turn names the language of the reply that it got."""
    earlier = list(item.earlier)
    history = []
    for number, turn in enumerate(earlier):
        is_user = turn["role"] == "user"
        language = earlier[number + 1]["language"] if is_user and number + 1 < len(earlier) else turn["language"]
        units = turn["units"] if is_user else None
        history.append(Turn(turn["role"], language, text=turn["text"] if units is None else None, units=units))
    return Prompt(
        item.kind_of_task, item.language, item.answer_language, item.text, item.units, tuple(history), item.id
    )


def recorded(
    address: str, start_s: float | None, end_s: float | None, rate_hz: int = hearing.SAMPLE_RATE_HZ
) -> Float32 | None:
    """The samples of a recording; None where it cannot be read any more."""
    try:
        recording = Recording(fetch.fetch(address).data)
        return recording.clip(rate_hz, start_s=start_s, end_s=end_s, limits=_ANY_LENGTH).samples
    except AudioError:
        return None


def resampled(samples: Float32, rate_hz: int) -> Float32:
    """Samples (T,) at the rate that listeners hear at."""
    if rate_hz == hearing.SAMPLE_RATE_HZ:
        return samples
    found: Float32 = soxr.resample(samples, rate_hz, hearing.SAMPLE_RATE_HZ)
    return found


def encoded(samples: Float32, rate_hz: int, form: str = "WAV") -> bytes:
    """Samples as a file of 16 bits a sample."""
    content = io.BytesIO()
    soundfile.write(content, np.clip(samples, -1, 1), rate_hz, format=form, subtype="PCM_16")
    return content.getvalue()


def _row(item: Item, response: Response | None) -> Row:
    """What a model gave; None for an item that was too long to be asked."""
    row = _common(item) | {
        "output": response.text if response else "",
        "stop": response.stop if response else "too_long",
    }
    if item.kind_of_task == "answer":
        row["heard"] = (response and response.question) or ""
    if item.kind_of_task in ("tts", "answer"):
        row["units"] = [int(unit) for unit in response.units] if response else []
    return row


def _common(item: Item) -> Row:
    return {
        "id": item.id,
        "task": item.task,
        "language": item.answer_language,
        "kind": item.kind,
        "question": item.question,
        "reference": item.reference,
        "accepted": None if item.accepted is None else list(item.accepted),
        "question_audio": item.question_audio,
        "reference_audio": item.reference_audio,
        "units": None,
        "spoken": None,
        "original": None,
    }


def _write(output: str, item: Item, samples: Float32, rate_hz: int) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in item.id)
    name = f"samples/{item.task.replace('/', '-')}/{safe}.wav"
    storage.write_bytes(storage.join(output, name), encoded(samples, rate_hz))
    return name

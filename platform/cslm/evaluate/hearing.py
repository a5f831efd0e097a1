"""Speech to text for judging speech: the recogniser of a learned tokenizer, or Whisper from a local folder.

What a figure of speech is worth depends on who listened, so a listener has a name that goes into every report.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import CheckpointError
from cslm.speech.tokenizers import saved
from cslm.speech.tokenizers.learned import LearnedTokenizer

Float32 = NDArray[np.float32]
# Both kinds listen at this rate.
SAMPLE_RATE_HZ = 16_000
_WHISPER_BATCH = 8


class Listener(Protocol):
    """Writes down what is said."""

    name: str

    def texts(self, clips: Sequence[Float32], language: str) -> list[str]:
        """The text of each clip (T,) at 16 kHz, all in one language (BCP-47)."""
        ...


def describe(path: str) -> str:
    """The name of the listener in a folder, without loading it. Raises CheckpointError when there is none."""
    described = saved.describe(path)
    if described is not None and described["kind"] == LearnedTokenizer.kind:
        return f"recogniser of the learned tokenizer {described['fingerprint']}"
    config = storage.join(path, "config.json")
    if storage.exists(config) and storage.read_json(config).get("model_type") == "whisper":
        return f"Whisper {storage.name(path)} ({fingerprint(storage.listing_digest(path))})"
    raise CheckpointError(
        f"{path} must hold a recogniser, found neither a tokenizer of jobs/fit_tokenizer.py nor a Whisper model of "
        "transformers; give speech.recogniser"
    )


def load(path: str, device: str) -> Listener:
    """The listener of a folder on a device. Raises CheckpointError when there is none."""
    name = describe(path)
    if name.startswith("Whisper"):
        return Whisper(path, device, name)
    return Learned(path, device, name)


class Learned:
    """The recogniser that units come from; it knows the languages it learned and needs not be told which."""

    def __init__(self, path: str, device: str, name: str) -> None:
        self.name = name
        self._recogniser = LearnedTokenizer.load(path).to(device).recogniser

    def texts(self, clips: Sequence[Float32], language: str) -> list[str]:
        """See Listener."""
        return self._recogniser.texts(clips)


class Whisper:
    """A Whisper model of transformers, told the language and kept from translating."""

    def __init__(self, path: str, device: str, name: str) -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.name = name
        self._device = torch.device(device)
        with storage.local_folder(path) as folder:
            self._processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        self._model = model.to(self._device).eval()

    @torch.no_grad()
    def texts(self, clips: Sequence[Float32], language: str) -> list[str]:
        """See Listener. A clip longer than the 30 s that Whisper hears at a time is cut into such pieces."""
        longest = 30 * SAMPLE_RATE_HZ
        pieces = [
            (number, clip[start : start + longest])
            for number, clip in enumerate(clips)
            for start in range(0, len(clip), longest)
        ]
        told = [""] * len(clips)
        options = {"language": language.partition("-")[0], "task": "transcribe"} if self._is_multilingual else {}
        for start in range(0, len(pieces), _WHISPER_BATCH):
            batch = pieces[start : start + _WHISPER_BATCH]
            features = self._processor(
                [piece for _, piece in batch],
                sampling_rate=SAMPLE_RATE_HZ,
                return_tensors="pt",
                return_attention_mask=True,
            )
            ids = self._model.generate(
                features.input_features.to(self._device, self._model.dtype),
                attention_mask=features.attention_mask.to(self._device),
                **options,
            )
            for (number, _), text in zip(
                batch, self._processor.batch_decode(ids, skip_special_tokens=True), strict=True
            ):
                told[number] = f"{told[number]} {text.strip()}".strip()
        return told

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self._model.generation_config, "is_multilingual", False))

"""Any Hugging Face folder of a wav2vec 2.0, HuBERT or WavLM network that was fine-tuned by CTC, as an aligner.

Models of many languages (MMS) keep a vocabulary and a small adapter for each; `adapters` says which serves which
language. What is longer than a window goes through in overlapping windows, as attention costs the square of the length.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCTC

from cslm import storage
from cslm.errors import CheckpointError, ConfigError
from cslm.speech import windows
from cslm.speech.aligners import Float32
from cslm.speech.tokenizers.networks import CONFIG_FILE, check_loading, lengthened, quiet

FAMILIES = ("hubert", "wav2vec2", "wavlm")
SAMPLE_RATE_HZ = 16_000
_WINDOW_S = 30.0
_PREPROCESSOR_FILE, _TOKENIZER_FILE, _VOCABULARY_FILE = (
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
)
# What one keyboard or another writes for the apostrophe that vocabularies have.
_APOSTROPHES = str.maketrans("’ʼ`", "'''")


class HuggingFaceAligner:
    """A CTC model; characters are looked up in its vocabulary as they are, in small or in capital letters."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, path: str, adapters: Mapping[str, str], device: str = "cpu") -> None:
        self._path, self._adapters, self._device = path, dict(adapters), torch.device(device)
        config = storage.read_json(storage.join(path, CONFIG_FILE))
        if config.get("model_type") not in FAMILIES:
            raise ConfigError(
                f"align.aligner: must hold a model of type {', '.join(FAMILIES)}, found {config.get('model_type')!r} "
                f"in {path}"
            )
        said = _read(path, _PREPROCESSOR_FILE)
        if said.get("sampling_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
            raise ConfigError(
                f"align.aligner: must take audio of {SAMPLE_RATE_HZ} Hz, found {said['sampling_rate']} in {path}"
            )
        # Where nothing is said, as transformers would do it.
        self._normalize = bool(said.get("do_normalize", True))
        self._model = _load(path).to(self._device)
        loaded = self._model.config
        self.blank = int(loaded.pad_token_id)
        self._hop = int(np.prod(loaded.conv_stride))
        self.frame_rate_hz = SAMPLE_RATE_HZ / self._hop
        self._shortest = _receptive_field(loaded.conv_kernel, loaded.conv_stride)
        # Base-sized models normalise over time, padding and all: of these clips cannot share a batch.
        self._batched = loaded.feat_extract_norm == "layer" and self._device.type != "cpu"
        self._delimiter = _read(path, _TOKENIZER_FILE).get("word_delimiter_token", "|")
        vocabulary = _read(path, _VOCABULARY_FILE)
        if not vocabulary:
            raise CheckpointError(f"align.aligner: {path} must hold {_VOCABULARY_FILE}, found none; download it again")
        nested = all(isinstance(part, dict) for part in vocabulary.values())
        self._vocabularies: dict[str, dict[str, int]] = vocabulary if nested else {"": vocabulary}
        self._adapter = ""

    @property
    def batch_s(self) -> float:
        """Seconds of audio in one call."""
        return 150.0 if self._batched else 30.0

    def spell(self, word: str, language: str) -> list[tuple[str, int | None]]:
        """The characters of a word, without the punctuation in it that the vocabulary lacks."""
        vocabulary = self._vocabularies[self._adapter_of(language)]
        spelled = []
        for character in unicodedata.normalize("NFKC", word).translate(_APOSTROPHES):
            forms = (character, character.lower(), character.upper())
            symbol = next((vocabulary[form] for form in forms if form in vocabulary and form != self._delimiter), None)
            if symbol is not None or unicodedata.category(character)[0] in "LMN":
                spelled.append((character, symbol))
        return spelled

    def separator(self, language: str) -> int | None:
        """The symbol of the vocabulary's word delimiter."""
        return self._vocabularies[self._adapter_of(language)].get(self._delimiter)

    def log_probs(self, waveforms: Sequence[Float32], language: str) -> list[Float32]:
        """Log probability of each symbol (F, V) of each clip (T,)."""
        self._take_adapter(self._adapter_of(language))
        longest, overlap = (round(seconds * SAMPLE_RATE_HZ) for seconds in (_WINDOW_S, windows.OVERLAP_S))
        clips = [self._prepared(waveform) for waveform in waveforms]
        plans = [windows.plan(len(clip), self._hop, longest, overlap) for clip in clips]
        pieces = [clip[one.start : one.end] for clip, plan in zip(clips, plans, strict=True) for one in plan]
        found = iter(self._batch(pieces) if self._batched else [self._batch([piece])[0] for piece in pieces])
        return [windows.stitch(plan, [next(found) for _ in plan]) for plan in plans]

    def _prepared(self, waveform: Float32) -> Float32:
        if self._normalize:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        return lengthened(waveform, self._shortest)

    @torch.no_grad()
    def _batch(self, clips: Sequence[Float32]) -> list[Float32]:
        longest = max(map(len, clips))
        samples_BT = torch.zeros(len(clips), longest)
        mask_BT = torch.zeros(len(clips), longest, dtype=torch.long)
        for row, mask, clip in zip(samples_BT, mask_BT, clips, strict=True):
            row[: len(clip)] = torch.tensor(clip)
            mask[: len(clip)] = 1
        mask = mask_BT.to(self._device) if len(clips) > 1 else None
        logits_BFV = self._model(samples_BT.to(self._device), attention_mask=mask).logits.float()
        log_probs_BFV = logits_BFV.log_softmax(-1).cpu().numpy()
        lengths = [(len(clip) - self._shortest) // self._hop + 1 for clip in clips]
        return [log_probs_FV[:length] for log_probs_FV, length in zip(log_probs_BFV, lengths, strict=True)]

    def _adapter_of(self, language: str) -> str:
        """The vocabulary that serves a language. Raises ConfigError where nothing says which."""
        if list(self._vocabularies) == [""]:
            return ""
        primary = language.partition("-")[0]
        for name in (self._adapters.get(language), self._adapters.get(primary), language, primary):
            if name is not None and name in self._vocabularies:
                return name
        known = ", ".join(sorted(self._vocabularies)[:20])
        raise ConfigError(
            f"align.adapters: must say which adapter of {self._path} serves the language {language}, as "
            f"--align.adapters.{primary} NAME; found {self._adapters.get(primary)!r}, there are {known}"
        )

    def _take_adapter(self, name: str) -> None:
        if name == self._adapter:
            return
        with storage.local_folder(self._path) as folder:
            self._model.config._name_or_path = folder
            try:
                self._model.load_adapter(name, local_files_only=True)
            except (OSError, RuntimeError, ValueError, SafetensorError) as error:
                raise CheckpointError(
                    f"align.aligner: {self._path} must hold the adapter {name}, found: {error}; download it again"
                ) from error
        self._model.to(self._device)
        self._adapter = name


def _load(path: str) -> Any:
    quiet()
    with storage.local_folder(path) as folder:
        try:
            model, loading = AutoModelForCTC.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"align.aligner: the weights in {path} must load into the network that its {CONFIG_FILE} describes, "
                f"found: {error}; download the folder again"
            ) from error
    check_loading(path, loading)
    return model.eval()


def _read(path: str, name: str) -> dict[str, Any]:
    file = storage.join(path, name)
    return dict(storage.read_json(file)) if storage.exists(file) else {}


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field

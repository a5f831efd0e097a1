"""What every speech tokenizer offers, the units it yields, and the table of those there are.

A tokenizer maps mono float32 audio at its own sample rate to one code a frame. What is stored are runs: neighbouring
equal codes merged to one unit with a length, so that `expand_repeats` gives every frame's code back.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cslm import storage
from cslm.errors import ConfigError

Codes = NDArray[np.uint16]
# What marks a folder as a whole tokenizer: kind, fingerprint, sample_rate_hz, frame_rate_hz, codebook_size, settings.
SETTINGS_FILE = "speech_tokenizer.json"
_LONGEST_RUN = np.iinfo(np.uint16).max

# One module each, imported only when asked for: some need packages that others do not.
KINDS: dict[str, str] = {
    "kmeans": "cslm.speech.tokenizers.kmeans:KMeansTokenizer",
}
# Kinds that can be made from the corpus itself: their class has `fit(waveforms, settings)`.
FITTED = ("kmeans",)


@runtime_checkable
class SpeechTokenizer(Protocol):
    """Audio -> codes. The same clip gets the same codes alone, in any batch and beside longer neighbours."""

    kind: str
    fingerprint: str  # digest of weights and settings: units of two fingerprints must never meet
    sample_rate_hz: int  # of the audio that `encode` takes
    frame_rate_hz: float  # codes a second
    codebook_size: int  # codes are 0 .. codebook_size - 1
    max_window_s: float | None  # longest audio that one call may take, None for any
    # What each code stands for, (codebook_size, D), None where that is unknown; codes that sound alike are near.
    codebook: NDArray[np.float32] | None

    @property
    def batch_s(self) -> float:
        """Seconds of audio in one `encode` call at which this device is best used."""
        ...

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Codes]:
        """Codes (F,) of each waveform (T,); F is about T / sample_rate_hz * frame_rate_hz, at least 1."""
        ...

    def to(self, device: str) -> "SpeechTokenizer":
        """Move the weights to a torch device and return self."""
        ...


@dataclass(frozen=True)
class UnitSequence:
    """Runs of equal codes: `units` (U,) uint16 and their lengths in frames `durations` (U,) uint16."""

    units: Codes
    durations: Codes

    @property
    def num_frames(self) -> int:
        """Frames of the audio: the sum of all durations."""
        return int(self.durations.sum(dtype=np.int64))


def merge_repeats(codes: NDArray[Any]) -> UnitSequence:
    """Merge neighbouring equal codes (F,). A run longer than 65,535 frames is split, as its length must fit uint16."""
    if len(codes) == 0:
        return UnitSequence(np.empty(0, np.uint16), np.empty(0, np.uint16))
    starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
    lengths = np.diff(np.append(starts, len(codes)))
    units = codes[starts]
    if lengths.max() > _LONGEST_RUN:
        pieces = -(-lengths // _LONGEST_RUN)
        last_of_run = np.cumsum(pieces) - 1
        split = np.full(int(pieces.sum()), _LONGEST_RUN)
        split[last_of_run] = lengths - (pieces - 1) * _LONGEST_RUN
        units, lengths = np.repeat(units, pieces), split
    return UnitSequence(units.astype(np.uint16), lengths.astype(np.uint16))


def expand_repeats(sequence: UnitSequence) -> Codes:
    """The code of every frame (F,): the inverse of `merge_repeats`."""
    return np.repeat(sequence.units, sequence.durations)


def plan_batches(lengths_s: Sequence[float], batch_s: float) -> list[list[int]]:
    """Group clips of like length into batches of at most `batch_s` seconds, counted as padded to the longest.

    Returns lists of positions; every clip is in exactly one, a clip longer than `batch_s` alone.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths_s)), key=lambda i: -lengths_s[i]):
        longest_s = lengths_s[batches[-1][0]] if batches else 0.0
        if batches and longest_s * (len(batches[-1]) + 1) <= batch_s:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def encode_all(tokenizer: SpeechTokenizer, waveforms: Sequence[NDArray[np.float32]]) -> list[UnitSequence]:
    """Encode any number of clips in batches that suit the tokenizer's device; results stand in the order given."""
    lengths_s = [len(waveform) / tokenizer.sample_rate_hz for waveform in waveforms]
    results: list[UnitSequence | None] = [None] * len(waveforms)
    for batch in plan_batches(lengths_s, tokenizer.batch_s):
        for position, codes in zip(batch, tokenizer.encode([waveforms[i] for i in batch]), strict=True):
            results[position] = merge_repeats(codes)
    return cast(list[UnitSequence], results)


def check_kind(kind: str) -> None:
    """Raises ConfigError for an unknown kind of tokenizer."""
    if kind not in KINDS:
        raise ConfigError(f"tokenizer.kind: must be one of {sorted(KINDS)}, found {kind!r}")


def tokenizer_class(kind: str) -> Any:
    """The class of a kind of tokenizer. Raises ConfigError for an unknown kind."""
    check_kind(kind)
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def describe(path: str) -> dict[str, Any] | None:
    """What a saved tokenizer's SETTINGS_FILE says, None when there is no tokenizer at `path`."""
    record = storage.join(path, SETTINGS_FILE)
    return cast(dict[str, Any], storage.read_json(record)) if storage.exists(record) else None


def copy(source: str, target: str) -> None:
    """Copy a saved tokenizer; the file that marks it as whole comes last."""
    files = [file.removeprefix(source).strip("/") for file in storage.list_files(source)]
    for file in sorted(files, key=lambda file: file == SETTINGS_FILE):
        storage.write_bytes(storage.join(target, file), storage.read_bytes(storage.join(source, file)))


def load(kind: str, path: str, device: str = "cpu") -> SpeechTokenizer:
    """Load a saved tokenizer. Raises ConfigError for an unknown kind, CheckpointError for a folder it cannot use."""
    return cast(SpeechTokenizer, tokenizer_class(kind).load(path)).to(device)

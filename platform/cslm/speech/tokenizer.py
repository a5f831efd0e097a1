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

from cslm.errors import ConfigError
from cslm.speech import windows
from cslm.speech.tokenizers import own, saved
from cslm.speech.tokenizers.saved import SETTINGS_FILE as SETTINGS_FILE
from cslm.speech.tokenizers.saved import copy as copy
from cslm.speech.tokenizers.saved import describe as describe
from cslm.speech.tokenizers.saved import same_source as same_source

Codes = NDArray[np.uint16]
_LONGEST_RUN = np.iinfo(np.uint16).max

# One module each, imported only when asked for: some need packages that others do not. Each class has
# `make(settings, waveforms, device)`, which gives something to `save(path)`, and `load(path)`.
KINDS: dict[str, str] = {
    "hubert": "cslm.speech.tokenizers.hubert:HubertTokenizer",
    "kmeans": "cslm.speech.tokenizers.kmeans:KMeansTokenizer",
    "learned": "cslm.speech.tokenizers.learned:LearnedTokenizer",
    "mimi": "cslm.speech.tokenizers.mimi:MimiTokenizer",
    "s3": "cslm.speech.tokenizers.s3:S3Tokenizer",
}


@runtime_checkable
class SpeechTokenizer(Protocol):
    """Audio -> codes. The same clip gets the same codes alone, in any batch and beside longer neighbours.

    A tokenizer with a `max_window_s` is given longer audio in windows (see `speech.windows`): its frames then lie
    `sample_rate_hz / frame_rate_hz` samples apart, a whole number.
    """

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
    """Encode any number of clips in batches that suit the tokenizer's device; results stand in the order given.

    What is longer than the tokenizer takes is cut into windows, which share batches with all else.
    """
    plans = [_windows(tokenizer, len(waveform)) for waveform in waveforms]
    pieces = [
        waveform[window.start : window.end] for waveform, plan in zip(waveforms, plans, strict=True) for window in plan
    ]
    codes: list[Codes | None] = [None] * len(pieces)
    for batch in plan_batches([len(piece) / tokenizer.sample_rate_hz for piece in pieces], tokenizer.batch_s):
        for position, found in zip(batch, tokenizer.encode([pieces[i] for i in batch]), strict=True):
            codes[position] = found
    found_codes = iter(cast(list[Codes], codes))
    return [merge_repeats(windows.stitch(plan, [next(found_codes) for _ in plan])) for plan in plans]


def _windows(tokenizer: SpeechTokenizer, num_samples: int) -> list[windows.Window]:
    rate_hz, longest_s = tokenizer.sample_rate_hz, tokenizer.max_window_s
    if longest_s is None:
        return [windows.Window(0, num_samples, 0, None)]
    hop = round(rate_hz / tokenizer.frame_rate_hz)
    return windows.plan(num_samples, hop, round(longest_s * rate_hz), round(windows.OVERLAP_S * rate_hz))


def is_own(kind: str) -> bool:
    """Whether a kind is a user's class, named by import path as `package.module:Class`."""
    module, colon, name = kind.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def check_kind(kind: str) -> None:
    """Raises ConfigError for an unknown kind of tokenizer."""
    if kind not in KINDS and not is_own(kind):
        raise ConfigError(
            f"tokenizer.kind: must be one of {sorted(KINDS)} or the import path of a class as package.module:Class, "
            f"found {kind!r}"
        )


def tokenizer_class(kind: str) -> Any:
    """The class of a kind in KINDS. Raises ConfigError for an unknown kind."""
    check_kind(kind)
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def make(kind: str, settings: Any, waveforms: Sequence[NDArray[np.float32]], device: str = "cpu") -> Any:
    """Make a tokenizer of its settings: its section, or the options of a user's class. The result has `save(path)`.

    `waveforms` are clips of the corpus at the class's rate where its settings ask for some (`making_audio_s`).
    """
    if is_own(kind):
        return own.make(kind, settings)
    return tokenizer_class(kind).make(settings, waveforms, device)


def verify(path: str) -> None:
    """Raise CheckpointError when a saved tokenizer was damaged or changed; loads neither a network nor own classes."""
    described = describe(path) or {}
    if "digests" in described:
        saved.verify(path)
    elif not is_own(described["kind"]):
        tokenizer_class(described["kind"]).load(path)


def load(kind: str, path: str, device: str = "cpu") -> SpeechTokenizer:
    """Load a saved tokenizer. Raises ConfigError for an unknown kind, CheckpointError for a folder it cannot use."""
    found = own.load(kind, path) if is_own(kind) else tokenizer_class(kind).load(path)
    return cast(SpeechTokenizer, found.to(device))

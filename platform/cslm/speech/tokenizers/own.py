"""A user's own tokenizer, named by import path: how its class is found, checked, kept and made again.

The class is made with the options of the settings as keyword arguments, by every worker for itself. Kept is no more
than the options and the fingerprint that it told; one that tells another when it is made again is refused.
"""

import importlib
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cslm.errors import CheckpointError, ConfigError
from cslm.speech.tokenizers.saved import SETTINGS_FILE, Saved, describe

_ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "fingerprint": (str,),
    "sample_rate_hz": (int,),
    "frame_rate_hz": (int, float),
    "codebook_size": (int,),
    "max_window_s": (int, float, type(None)),
    "codebook": (np.ndarray, type(None)),
    "batch_s": (int, float),
}
_METHODS = ("encode", "to")
# Two clips to try a tokenizer on, the second beside a shorter one.
_TRIED_S = (0.7, 1.3)


def make(kind: str, options: Mapping[str, Any]) -> Saved:
    """Make the tokenizer and try it.

    Raises ConfigError for a class that cannot be imported or made with these options, CheckpointError for one that does
    not keep the protocol.
    """
    tokenizer = _instance(kind, options)
    check(kind, tokenizer)
    facts = {name: getattr(tokenizer, name) for name in ("fingerprint", "codebook_size", "sample_rate_hz")}
    document = {"kind": kind, **facts, "frame_rate_hz": float(tokenizer.frame_rate_hz), "settings": dict(options)}
    return Saved(document, {})


def load(kind: str, path: str) -> Any:
    """Make a kept tokenizer again. Raises CheckpointError when it is not what it was."""
    document = describe(path)
    if document is None or document.get("kind") != kind:
        raise CheckpointError(f"{path} must hold the {SETTINGS_FILE} of a tokenizer of kind {kind}")
    tokenizer = _instance(kind, document["settings"])
    found = getattr(tokenizer, "fingerprint", None)
    if found != document["fingerprint"]:
        raise CheckpointError(
            f"{kind} must tell the fingerprint {document['fingerprint']} that {path} was made with, found {found}: its "
            "code or weights are others now; bring back the ones of then, or make the units again with another output"
        )
    return tokenizer


def check(kind: str, tokenizer: Any) -> None:
    """Raise CheckpointError, listing all that is amiss, unless an object is a speech tokenizer that works."""
    faults = [f"{name} (an attribute)" for name in _ATTRIBUTES if not hasattr(tokenizer, name)]
    faults += [f"{name} (a method)" for name in _METHODS if not callable(getattr(tokenizer, name, None))]
    if faults:
        raise CheckpointError(f"{kind} must be a cslm.speech.tokenizer.SpeechTokenizer, lacks {', '.join(faults)}")
    for name, types in _ATTRIBUTES.items():
        if not isinstance(getattr(tokenizer, name), types) or isinstance(getattr(tokenizer, name), bool):
            faults.append(f"{name}: must be {_names(types)}, found {getattr(tokenizer, name)!r}")
    if not faults:
        faults = _faulty_values(tokenizer)
    if not faults:
        faults = _faulty_codes(tokenizer)
    if faults:
        raise CheckpointError("\n".join(f"{kind}: {fault}" for fault in faults))


def _faulty_values(tokenizer: Any) -> list[str]:
    faults = []
    if not tokenizer.fingerprint:
        faults.append("fingerprint: must be a digest of weights and settings, found nothing")
    if not 2 <= tokenizer.codebook_size <= 65_536:
        faults.append(f"codebook_size: must be 2 to 65,536, found {tokenizer.codebook_size}")
    if tokenizer.sample_rate_hz <= 0 or tokenizer.frame_rate_hz <= 0 or tokenizer.batch_s <= 0:
        faults.append("sample_rate_hz, frame_rate_hz and batch_s: must be greater than 0")
    elif tokenizer.max_window_s is not None and (tokenizer.sample_rate_hz / tokenizer.frame_rate_hz) % 1:
        faults.append("max_window_s: needs frames that are a whole number of samples apart; set it to None")
    return faults


def _faulty_codes(tokenizer: Any) -> list[str]:
    """What is wrong with the codes of two clips of noise."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, int(seconds * tokenizer.sample_rate_hz)).astype(np.float32) for seconds in _TRIED_S]
    together = tokenizer.encode(clips)
    if len(together) != len(clips):
        return [f"encode: must give codes for each of {len(clips)} waveforms, found {len(together)}"]
    faults = []
    for clip, seconds, codes in zip(clips, _TRIED_S, together, strict=True):
        due = seconds * tokenizer.frame_rate_hz
        if not isinstance(codes, np.ndarray) or codes.ndim != 1 or codes.dtype != np.uint16:
            faults.append(f"encode: must give uint16 arrays of one dimension, found {_told(codes)}")
        elif abs(len(codes) - due) > 2:
            faults.append(f"encode: must give about {due:g} codes for {seconds} s, found {len(codes)}")
        elif len(codes) and codes.max() >= tokenizer.codebook_size:
            faults.append(f"encode: codes must be below codebook_size {tokenizer.codebook_size}, found {codes.max()}")
        elif not np.array_equal(codes, tokenizer.encode([clip])[0]):
            faults.append("encode: a clip must get the same codes alone and in a batch, found others; mask the padding")
    return [fault for fault, _ in itertools.groupby(faults)]


def _instance(kind: str, options: Mapping[str, Any]) -> Any:
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"tokenizer.kind: must name a class that the workers can import, found {kind} ({error}); install its "
            "package in the workers' image, or put its folder on their PYTHONPATH (--runtime-env-json)"
        ) from error
    try:
        tokenizer = found(**options)
        if not hasattr(tokenizer, "kind"):
            tokenizer.kind = kind
        return tokenizer
    except (TypeError, ValueError) as error:
        raise ConfigError(f"tokenizer.options: must be what {kind} takes, found {dict(options)}: {error}") from error


def _names(types: tuple[type, ...]) -> str:
    return " or ".join("None" if one is type(None) else one.__name__ for one in types)


def _told(codes: Any) -> str:
    if isinstance(codes, np.ndarray):
        return f"{codes.dtype} of {codes.ndim} dimensions"
    return type(codes).__name__

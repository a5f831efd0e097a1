"""Networks that say where in a clip each character of its text is spoken, and the folders they come from.

An aligner is a recogniser trained by CTC: of each frame it tells how likely each symbol of its alphabet is. Which kind
a folder holds is told by what lies in it, without loading a network, so that a driver can ask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import ConfigError
from cslm.speech.tokenizers import saved

Float32 = NDArray[np.float32]

# Goes up when the same network and settings place words elsewhere.
REVISION = 1
_CONFIG_FILE = "config.json"


class Aligner(Protocol):
    """Audio at `sample_rate_hz` -> log probabilities of symbols, and the spelling of words in these symbols."""

    sample_rate_hz: int
    frame_rate_hz: float  # frame i tells of the time i / frame_rate_hz, and somewhat before
    blank: int

    @property
    def batch_s(self) -> float:
        """Seconds of audio in one call at which this device is best used."""
        ...

    def spell(self, word: str, language: str) -> list[tuple[str, int | None]]:
        """The characters of a word as the aligner knows them, each with its symbol, None where it has none."""
        ...

    def separator(self, language: str) -> int | None:
        """The symbol that stands for the space between two words, None without one."""
        ...

    def log_probs(self, waveforms: Sequence[Float32], language: str) -> list[Float32]:
        """Log probability of each symbol (F, V) of each clip (T,); all clips are of one language."""
        ...


def describe(path: str, adapters: Mapping[str, str], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What tells an aligner's folder from others: `kind`, `fingerprint` by content, `path`, `adapters`, `source`.

    `known` is what was told before: its content is not read again as long as the folder's listing is the same. Raises
    ConfigError for a folder that holds no aligner.
    """
    tokenizer = saved.describe(path)
    if tokenizer is not None:
        if tokenizer["kind"] != "learned":
            raise ConfigError(
                f"align.aligner: must be a folder of jobs/fit_tokenizer.py or a Hugging Face CTC model, found a "
                f"tokenizer of kind {tokenizer['kind']} at {path}, which does not know what is said"
            )
        facts: list[Any] = ["learned", tokenizer["fingerprint"]]
        return {"kind": "learned", "fingerprint": fingerprint([REVISION, *facts]), "path": path, "adapters": {}}
    config = storage.join(path, _CONFIG_FILE)
    if not storage.exists(config):
        raise ConfigError(
            f"align.aligner: must be a folder of jobs/fit_tokenizer.py, with {saved.SETTINGS_FILE} in it, or a Hugging "
            f"Face CTC model, with {_CONFIG_FILE} in it, found neither at {path}"
        )
    architectures = storage.read_json(config).get("architectures") or []
    if not any(str(name).endswith("ForCTC") for name in architectures):
        raise ConfigError(
            f"align.aligner: a Hugging Face model must be one for CTC, found {architectures} in {config}; take one "
            "that was fine-tuned to recognise speech"
        )
    given = {"path": path, "adapters": dict(adapters), "revision": REVISION}
    same = known and known.get("source") and {name: known.get(name) for name in given} == given
    if known and same and known["source"]["listing"] == storage.listing_digest(path):
        return dict(known)
    source = saved.source_of(path)
    content = fingerprint([REVISION, "huggingface", source["sha256"], dict(adapters)])
    return {
        "kind": "huggingface", "fingerprint": content, **given, "source": source,
    }  # fmt: skip


def load(described: Mapping[str, Any], device: str = "cpu") -> Aligner:
    """Load what `describe` described. Raises CheckpointError or ConfigError for a folder that cannot be used."""
    if described["kind"] == "learned":
        from cslm.speech.aligners.learned import LearnedAligner

        return LearnedAligner(described["path"], device)
    from cslm.speech.aligners.huggingface import HuggingFaceAligner

    return HuggingFaceAligner(described["path"], described["adapters"], device)

"""The joint vocabulary: text ids as the text tokenizer has them, then the speech units, then the specials.

The order is pinned and hashed. The hash travels with packed data, checkpoints and models, and two that differ are
refused: a unit id that means another sound is an error no loss curve shows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_FILE = "cslm_vocabulary.json"
SPEECH_START, SPEECH_END = "<sosp>", "<eosp>"
QUESTION, ANSWER = "[question]", "[answer]"
SPECIALS = (SPEECH_START, SPEECH_END, QUESTION, ANSWER)
# Embedding rows are padded to whole tiles of the matrix units.
_ROWS_MULTIPLE = 64


@dataclass(frozen=True)
class Vocabulary:
    """Layout of the joint vocabulary.

    Ids `0 .. num_text-1` are the text tokenizer's, `num_text .. num_text+num_units-1` the units in code order, then
    `SPECIALS` in order. `unit_tokenizer` is the fingerprint of the speech tokenizer whose codes these are.
    """

    num_text: int
    num_units: int
    text_tokenizer: str
    unit_tokenizer: str
    frame_rate_hz: float
    specials: tuple[str, ...] = SPECIALS

    @property
    def size(self) -> int:
        """Number of ids in use."""
        return self.num_text + self.num_units + len(self.specials)

    @property
    def num_rows(self) -> int:
        """Rows of the embedding matrix: `size` rounded up to a multiple of 64."""
        return -(-self.size // _ROWS_MULTIPLE) * _ROWS_MULTIPLE

    @property
    def hash(self) -> str:
        """16 hex digits over the whole layout."""
        return fingerprint({**asdict(self), "specials": list(self.specials)})

    def special(self, token: str) -> int:
        """The id of a special token."""
        return self.num_text + self.num_units + self.specials.index(token)

    def unit_ids(self, units: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Units [N] -> token ids [N]. Raises CheckpointError for a code outside the codebook."""
        codes = np.asarray(units, dtype=np.int64)
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_units):
            raise CheckpointError(
                f"units must lie in 0..{self.num_units - 1}, found {codes.min()}..{codes.max()}: "
                "these units were made by another tokenizer than the vocabulary's"
            )
        return (codes + self.num_text).astype(np.int32)

    def units(self, ids: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        """Token ids [N] -> the units among them, in order."""
        codes = np.asarray(ids, dtype=np.int64) - self.num_text
        return codes[(codes >= 0) & (codes < self.num_units)].astype(np.uint16)

    def save(self, folder: str) -> None:
        """Write the layout beside a model."""
        storage.write_json(storage.join(folder, VOCABULARY_FILE), {**asdict(self), "hash": self.hash})

    def require_same(self, other: "Vocabulary", where: str) -> None:
        """Raise CheckpointError unless the model at `where` has just this vocabulary."""
        if other.hash != self.hash:
            raise CheckpointError(
                f"{where}: the model must have the vocabulary {self.hash}, found {other.hash}: it was made from "
                "another model or tokenizer; give another output.path"
            )

    def require_units_of(self, fingerprints: Sequence[str], where: str) -> None:
        """Raise CheckpointError unless every unit table was made by this vocabulary's speech tokenizer."""
        other = sorted(set(fingerprints) - {self.unit_tokenizer})
        if other:
            raise CheckpointError(
                f"{where}: units must come from the tokenizer {self.unit_tokenizer} that the model's vocabulary was "
                f"made for, found {', '.join(other)}; tokenize the corpus with the model's tokenizer"
            )


def load(folder: str) -> Vocabulary:
    """Read the layout beside a model. Raises CheckpointError when there is none or its hash does not fit."""
    path = storage.join(folder, VOCABULARY_FILE)
    if not storage.exists(path):
        raise CheckpointError(
            f"{folder} must hold {VOCABULARY_FILE}, found none: this model has no speech units yet; "
            "give it to jobs/pretrain.py as model.path"
        )
    document: dict[str, Any] = storage.read_json(path)
    written = document.pop("hash")
    vocabulary = Vocabulary(**{**document, "specials": tuple(document["specials"])})
    if vocabulary.hash != written:
        raise CheckpointError(f"{path}: hash must be {vocabulary.hash}, found {written}: the file was changed by hand")
    return vocabulary


def has_vocabulary(folder: str) -> bool:
    """Whether a model folder already holds a joint vocabulary."""
    return storage.exists(storage.join(folder, VOCABULARY_FILE))


def extend(
    tokenizer: "PreTrainedTokenizerFast", *, num_units: int, unit_tokenizer: str, frame_rate_hz: float
) -> Vocabulary:
    """Add units and specials to a text tokenizer, in place, and return the layout."""
    from tokenizers import AddedToken

    num_text = len(tokenizer)
    text_hash = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]
    names = [f"<unit_{code}>" for code in range(num_units)] + list(SPECIALS)
    added = tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
    if added != len(names) or len(tokenizer) != num_text + len(names):
        raise CheckpointError(
            f"the text tokenizer must not know the names of units and specials, but {len(names) - added} are in it"
        )
    return Vocabulary(num_text, num_units, text_hash, unit_tokenizer, frame_rate_hz)

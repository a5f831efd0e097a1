"""A decoder as it lies in a folder: one JSON file that says what it is, one safetensors file; nothing is unpickled.

The JSON file comes last and marks the folder as whole. Its fingerprint is taken from weights and settings.
"""

from typing import Any, cast

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import CheckpointError
from cslm.speech.tokenizers.saved import tensors_digest

SETTINGS_FILE = "speech_decoder.json"
WEIGHTS_FILE = "decoder.safetensors"
KINDS = ("flow", "griffin_lim")
# Goes up when the same folder would sound otherwise.
REVISION = 2
_DECIDING = ("kind", "revision", "tokenizer", "speakers", "default_speaker", "settings", "network", "weights")


def save(path: str, tensors: dict[str, Tensor], **facts: Any) -> dict[str, Any]:
    """Write a folder and return what its SETTINGS_FILE says.

    `facts`: kind, tokenizer (fingerprint of the units), speakers, default_speaker, settings, network, and notes.
    """
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    document = {"revision": REVISION, "weights": tensors_digest(data), **facts}
    document = {"kind": document["kind"], "fingerprint": _fingerprint(document), **document}
    storage.write_bytes(storage.join(path, WEIGHTS_FILE), data)
    storage.write_json(storage.join(path, SETTINGS_FILE), document)
    return document


def describe(path: str) -> dict[str, Any] | None:
    """What a decoder's SETTINGS_FILE says, None when there is no decoder at `path`."""
    record = storage.join(path, SETTINGS_FILE)
    return cast(dict[str, Any], storage.read_json(record)) if storage.exists(record) else None


def read(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a folder says and its weights. Raises CheckpointError when it is not whole or was changed."""
    document = describe(path)
    if document is None:
        raise CheckpointError(
            f"a speech decoder must be a folder with {SETTINGS_FILE}, found none at {path}; jobs/decoder.py "
            "makes one in output.path/decoder"
        )
    if document.get("revision") != REVISION or document.get("kind") not in KINDS:
        raise CheckpointError(
            f"{path}: a decoder must be of revision {REVISION} and one of {', '.join(KINDS)}, found revision "
            f"{document.get('revision')}, kind {document.get('kind')}: another version of cslm made it; train it again"
        )
    place = storage.join(path, WEIGHTS_FILE)
    data = storage.read_bytes(place) if storage.exists(place) else b""
    if not data or _digest(data) != document.get("weights") or _fingerprint(document) != document.get("fingerprint"):
        raise CheckpointError(
            f"{path}: {WEIGHTS_FILE} and settings must be of the fingerprint {document.get('fingerprint')}, found "
            f"{'others' if data else 'no such file'}; the folder was changed or cut short: copy or train it again"
        )
    return document, load_tensors(data)


def _fingerprint(document: dict[str, Any]) -> str:
    return fingerprint([document.get(name) for name in _DECIDING])


def _digest(data: bytes) -> str | None:
    try:
        return tensors_digest(data)
    except (ValueError, KeyError, TypeError):
        return None  # cut short: no digest equals it

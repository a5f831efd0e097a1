"""A tokenizer as it lies in a folder: SETTINGS_FILE and the files it was made of, under one fingerprint by content.

The fingerprint is taken from names, shapes and bytes of the weights and from the settings that decide the codes, never
from paths, times or how a file was laid out: the same weights give the same fingerprint wherever they were converted.
Nothing here needs to know what a tokenizer computes, or torch, so a driver can check a folder that only its workers
can use.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from cslm import storage
from cslm.errors import CheckpointError

# What marks a folder as a whole tokenizer: kind, fingerprint, sample_rate_hz, frame_rate_hz, codebook_size, settings.
SETTINGS_FILE = "speech_tokenizer.json"
# What the fingerprint is taken from. `network` says what the weights are put into, `revision` which code computes.
_DECIDING = ("kind", "revision", "settings", "network", "digests")
_BLOCK = 16 << 20


@dataclass(frozen=True)
class Saved:
    """Content of a tokenizer's folder: `document` is that of SETTINGS_FILE, `files` are safetensors by name."""

    document: dict[str, Any]
    files: dict[str, bytes] = field(repr=False)

    @classmethod
    def of(cls, files: Mapping[str, bytes], **facts: Any) -> "Saved":
        """Put a tokenizer together from safetensors files and what its SETTINGS_FILE is to say beside them."""
        facts["digests"] = {name: tensors_digest(data) for name, data in files.items()}
        return cls({"kind": facts["kind"], "fingerprint": fingerprint(facts), **facts}, dict(files))

    @classmethod
    def read(cls, path: str, kind: str, revision: int) -> "Saved":
        """Read and check a folder. Raises CheckpointError when it is not whole, was changed, or is of another kind."""
        document = describe(path)
        if document is None or document.get("kind") != kind:
            found = "no such file" if document is None else f"one of kind {document.get('kind')}"
            raise CheckpointError(f"{path} must hold the {SETTINGS_FILE} of a tokenizer of kind {kind}, found {found}")
        if document.get("revision") != revision:
            raise CheckpointError(
                f"{path}: a {kind} tokenizer must be of revision {revision}, found {document.get('revision')}: another "
                "version of cslm made it, with which its units go together; use that version, or make it again"
            )
        return cls(document, _checked_files(path, document))

    def with_settings(self, **changes: Any) -> "Saved":
        """The same weights under other settings, and so another fingerprint."""
        facts = self.document | {"settings": self.document["settings"] | changes}
        return Saved(facts | {"fingerprint": fingerprint(facts)}, self.files)

    def with_notes(self, **notes: Any) -> "Saved":
        """The same tokenizer with more said in its SETTINGS_FILE, which does not change the fingerprint."""
        return Saved(self.document | notes, self.files)

    def save(self, path: str) -> None:
        """Write the folder; the SETTINGS_FILE comes last, it marks it as whole."""
        for name, data in self.files.items():
            storage.write_bytes(storage.join(path, name), data)
        storage.write_json(storage.join(path, SETTINGS_FILE), self.document)


def describe(path: str) -> dict[str, Any] | None:
    """What a saved tokenizer's SETTINGS_FILE says, None when there is no tokenizer at `path`."""
    record = storage.join(path, SETTINGS_FILE)
    return cast(dict[str, Any], storage.read_json(record)) if storage.exists(record) else None


def copy(source: str, target: str) -> None:
    """Copy a saved tokenizer; the file that marks it as whole comes last."""
    files = [file.removeprefix(source).strip("/") for file in storage.list_files(source)]
    for file in sorted(files, key=lambda file: file == SETTINGS_FILE):
        storage.write_bytes(storage.join(target, file), storage.read_bytes(storage.join(source, file)))


def fingerprint(document: Mapping[str, Any]) -> str:
    """16 hex digits of all that decides a tokenizer's codes."""
    facts = {name: document.get(name) for name in _DECIDING}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def verify(path: str) -> None:
    """Raise CheckpointError unless the files of a folder are those that its SETTINGS_FILE was written for."""
    _checked_files(path, describe(path) or {})


def tensors_digest(data: bytes) -> str:
    """SHA-256 over names, types, shapes and values of a safetensors file, whatever order they lie in."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    digest, values = hashlib.sha256(), memoryview(data)[8 + size :]
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(values[slice(*entry["data_offsets"])])
    return digest.hexdigest()


def source_of(uri: str) -> dict[str, str]:
    """What tells the file or folder that a tokenizer is made from: where it lies, its listing and its content."""
    return {"uri": uri, "listing": storage.listing_digest(uri), "sha256": _content_digest(uri)}


def same_source(kept: Mapping[str, Any], uri: str) -> bool:
    """Whether a tokenizer was made from what lies at `uri`; also when nothing lies there any more.

    Content is read only where place or listing changed.
    """
    source = kept.get("source")
    if source is None or not storage.exists(uri):
        return True
    if source["uri"] == uri and source["listing"] == storage.listing_digest(uri):
        return True
    return bool(source["sha256"] == _content_digest(uri))


def _content_digest(uri: str) -> str:
    digest = hashlib.sha256()
    folder = storage.is_folder(uri)
    for file in storage.list_files(uri) if folder else [uri]:
        digest.update(file.removeprefix(uri).encode())
        with storage.open_input(file) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _checked_files(path: str, document: Mapping[str, Any]) -> dict[str, bytes]:
    digests = document.get("digests", {})
    try:
        files = {name: storage.read_bytes(storage.join(path, name)) for name in digests}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"a tokenizer folder must hold {', '.join(digests)} beside {SETTINGS_FILE}, found {path} without: {error}; "
            "copy the whole folder again"
        ) from error
    found = {**document, "digests": {name: _digest_or_none(files[name]) for name in digests}}
    if fingerprint(found) != document.get("fingerprint"):
        raise CheckpointError(
            f"{path}: weights and settings must have the fingerprint {document.get('fingerprint')}, found "
            f"{fingerprint(found)}; the folder was changed after it was saved: copy or make it again"
        )
    return files


def _digest_or_none(data: bytes) -> str | None:
    try:
        return tensors_digest(data)
    except (ValueError, KeyError, TypeError):
        return None  # cut short: no digest equals it

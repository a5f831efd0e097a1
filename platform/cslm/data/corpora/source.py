"""What every reader of a corpus is given: where it lies, what is there, and how its paths become addresses of audio.

A reader yields rows as plain dicts, one after the other, whatever the size of the source; what a row must hold is
decided in one place, `data.manifest`. A row that cannot be read is a row too, with the reason in it: see `fault`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cslm import storage
from cslm.errors import ConfigError
from cslm.storage import Entry

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64"),
    *(".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma"),  # by PyAV
)
COLUMNS = ("id", "audio", "text", "language", "speaker", "start_s", "end_s", "split")
# What corpora call the columns that need no setting to be found.
KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "language": ("language", "locale", "lang"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "split": ("split",),
}
# Marks beside the columns of a row: why it cannot be taken (a sentence, and the short name of the reason), whether
# a whole container fell out with it, and what is read in one go with the rows beside it.
FAULT, REASON, CONTAINER, GROUP = "#fault", "#reason", "#container", "#group"

# A look into each folder is a request, which pays for folders of data sets or languages but not of speakers.
_MAX_FOLDERS = 500
_REQUESTS_AT_ONCE = 16

Row = dict[str, Any]


@dataclass
class Source:
    """A corpus to read. `columns` maps ours to the source's; relative paths hang from `root` where it is given."""

    uri: str
    language: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    root: str | None = None
    notices: list[str] = field(default_factory=list)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, not a file. Raises ConfigError when there is nothing."""
        if not storage.exists(self.uri):
            raise ConfigError(f"corpus.manifest: must be a file or a folder, found nothing at {self.uri}")
        return storage.is_folder(self.uri)

    @cached_property
    def folder(self) -> str:
        """The folder itself, or the one that holds the file."""
        return self.uri if self.is_folder else storage.parent(self.uri)

    @cached_property
    def entries(self) -> list[Entry]:
        """The file itself, or every file below the folder by one listing."""
        if self.is_folder:
            return storage.list_entries(self.uri)
        found = storage.entry(self.uri)
        return [found] if found else []

    @cached_property
    def top(self) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files right in the folder; of the file alone when it is one."""
        if not self.is_folder:
            return [], [storage.name(self.uri)]
        folders, files = storage.list_folder(self.uri)
        return folders, [storage.name(file.uri) for file in files]

    def folders_with(self, name: str) -> list[str]:
        """The folders right in the folder in which something of that name lies; none where they are very many."""
        places = [storage.join(self.uri, folder) for folder in self.top[0]]
        if len(places) > _MAX_FOLDERS:
            return []
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            found = list(pool.map(lambda place: storage.exists(storage.join(place, name)), places))
        return [place for place, is_there in zip(places, found, strict=True) if is_there]

    def ending(self, *suffixes: str) -> list[Entry]:
        """Entries whose names end so, in lower or upper case."""
        return [entry for entry in self.entries if entry.uri.lower().endswith(suffixes)]

    def inner(self, uri: str) -> str:
        """The path of a file below the source."""
        return uri[len(self.folder) :].strip("/")

    def audio(self, path: Any, base: str, *, absolute: bool = True) -> Row:
        """The `audio` of a row that names `path`, relative to the folder `base`; a fault when it leads elsewhere.

        Absolute paths and URIs are taken where `absolute`: in manifests that the user wrote.
        """
        if not isinstance(path, str) or not path:
            return {"audio": path}
        root = (self.root or self.folder).rstrip("/") + "/"
        if path.startswith("/") or storage.is_uri(path):
            if absolute:
                return {"audio": path}
            places = [path]
        else:
            # What leads out of the root is meant from the manifest: `../audio/1.wav`.
            places = [_plain(f"{folder}/{path}") for folder in (*([self.root] if self.root else []), base)]
        place = next((place for place in places if place.startswith(root)), None)
        if place is None:
            where = "corpus.root" if self.root else "the corpus"
            message = (
                f"audio must lie below {where}, {root[:-1]}, found {path}; set corpus.root, or give an absolute path"
            )
            return {"audio": path, FAULT: message, REASON: "outside_root"}
        return {"audio": place}

    def column(self, ours: str, found: Iterable[str]) -> str | None:
        """The source's name of one of our columns among those found: as the user says, else a well-known one.

        Raises ConfigError when the user names one that is not there.
        """
        names = list(found)
        wanted = self.columns.get(ours)
        if wanted is not None and wanted not in names:
            raise ConfigError(f"corpus.columns: {wanted} must be a column of {self.uri}, found {sorted(names)}")
        return wanted or next((name for name in KNOWN_NAMES.get(ours, ()) if name in names), None)

    def needs_language(self, why: str) -> str:
        """The language that the user gave. Raises ConfigError when it is needed and not given."""
        if self.language is None:
            raise ConfigError(f"corpus.language: must be given, as {why}")
        return self.language


def fault(reason: str, message: str, *, id: Any = None, audio: Any = None, container: bool = False) -> Row:
    """A row that cannot be taken; `container`: of a file with rows that are not known, being unreadable."""
    return {"id": id, "audio": audio, FAULT: message, REASON: reason, CONTAINER: container}


def suffix(path: str) -> str:
    """The ending of a name in lower case, with its dot: `.wav`; together with `.gz` where that is the last."""
    name = path[path.rfind("/") + 1 :].lower()
    packed = ".gz" if name.endswith(".gz") else ""
    name = name.removesuffix(".gz")
    dot = name.rfind(".")
    return (name[dot:] if dot >= 0 else "") + packed


def stem(path: str) -> str:
    """A path without its ending."""
    return path[: -len(suffix(path))] if suffix(path) else path


def split_in(*parts: str) -> str | None:
    """The split that the first of some names of folders or files tells: `train-clean-100`, `dev`, `test_0001.tar`."""
    for part in parts:
        first = re.split(r"[^a-z]+", part.lower().lstrip("_"))[0]
        if first in SPLIT_NAMES:
            return SPLIT_NAMES[first]
    return None


def split_within(name: str) -> str | None:
    """The split that any word of a name tells: `librispeech_cuts_dev-clean.jsonl.gz`."""
    words: Sequence[str] = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "valid", "validation", "val"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def _plain(path: str) -> str:
    if "./" not in path and "//" not in path.partition("://")[2] and not path.endswith("/.."):
        return path
    scheme, has_scheme, inner = path.rpartition("://")
    return f"{scheme}{has_scheme}{os.path.normpath(inner)}"

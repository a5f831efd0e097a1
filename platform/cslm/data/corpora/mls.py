"""Multilingual LibriSpeech: `<split>/transcripts.txt` and `<split>/audio/<speaker>/<book>/<id>.flac` (or `.opus`)."""

import re
from collections.abc import Iterator

from cslm import storage
from cslm.data.corpora import text
from cslm.data.corpora.source import Row, Source, fault, split_in
from cslm.errors import ConfigError
from cslm.storage import Entry

_TRANSCRIPTS = "transcripts.txt"
_SPLITS = ("dev", "test", "train")
_LANGUAGES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}
_SUFFIXES = (".flac", ".opus", ".ogg", ".mp3", ".wav")


def recognises(source: Source) -> bool:
    """Whether split folders, or the folder itself, hold a file of transcripts beside audio."""
    folders, files = source.top
    if _TRANSCRIPTS in files:
        return "audio" in folders
    return source.is_folder and any(name in _SPLITS for name in folders) and bool(facts(source))


def facts(source: Source) -> list[Entry]:
    """The files of transcripts: whatever else there is follows from them."""
    places = [source.uri, *(storage.join(source.uri, split) for split in _SPLITS)]
    found = [storage.entry(storage.join(place, _TRANSCRIPTS)) for place in places]
    return [entry for entry in found if entry is not None]


def rows(source: Source) -> Iterator[Row]:
    """One row a transcript."""
    found = facts(source)
    if not found:
        raise ConfigError(
            f"corpus.manifest: MLS must hold {_TRANSCRIPTS} in its folders {', '.join(_SPLITS)}, found none in "
            f"{source.uri}"
        )
    language = source.language or _language(source)
    for entry in found:
        folder = storage.parent(entry.uri)
        split = split_in(storage.name(folder))
        suffix: str | None = None
        for number, line in text.lines(entry.uri):
            if isinstance(line, dict):
                yield line
                continue
            name, tab, transcript = line.partition("\t")
            speaker, _, rest = name.partition("_")
            book = rest.partition("_")[0]
            if not tab or not book:
                wanted = f"line {number} of {entry.uri} must be <speaker>_<book>_<n>, a tab and text"
                message = f"{wanted}, found {line[:60]!r}"
                yield fault("unreadable_row", message, id=name)
                continue
            place = f"{folder}/audio/{speaker}/{book}/{name}"
            suffix = suffix or _suffix(place)
            audio = source.audio(f"audio/{speaker}/{book}/{name}{suffix}", folder, absolute=False)
            yield {"id": name, "text": transcript, "language": language, "speaker": speaker, "split": split, **audio}


def _suffix(place: str) -> str:
    return next((end for end in _SUFFIXES if storage.entry(place + end)), _SUFFIXES[0])


def _language(source: Source) -> str:
    for name in reversed(source.uri.split("/")):
        match = re.match(r"mls_([a-z]+)", name)
        if match and match[1] in _LANGUAGES:
            return _LANGUAGES[match[1]]
    return source.needs_language(f"no folder of {source.uri} is named mls_<language>")

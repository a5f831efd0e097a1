"""A plain folder of audio: every file below it is an utterance, named by its path."""

from collections.abc import Iterator

from cslm.data.corpora.source import AUDIO_SUFFIXES, Row, Source, split_in, stem
from cslm.errors import ConfigError


def recognises(source: Source) -> bool:
    """Whether any audio lies below the folder."""
    return source.is_folder and bool(source.ending(*AUDIO_SUFFIXES))


def rows(source: Source) -> Iterator[Row]:
    """One row a file; folders below named like a split tell it."""
    found = source.ending(*AUDIO_SUFFIXES)
    if not found:
        wanted = ", ".join(AUDIO_SUFFIXES)
        raise ConfigError(f"corpus.manifest: a folder must hold audio ({wanted}), found none in {source.uri}")
    language = source.needs_language(f"the audio files in {source.uri} name no language")
    for entry in found:
        inner = source.inner(entry.uri)
        yield {
            "id": stem(inner),
            "audio": entry.uri,
            "language": language,
            "split": split_in(*inner.split("/")[:-1]),
        }

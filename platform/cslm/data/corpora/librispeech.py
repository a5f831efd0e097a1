"""LibriSpeech: `<split>/<speaker>/<chapter>/<id>.flac` with the transcripts of a chapter in `*.trans.txt` beside."""

from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import closing

from cslm import storage
from cslm.data import fetch
from cslm.data.corpora.source import AUDIO_SUFFIXES, Row, Source, fault, split_in, stem
from cslm.errors import AudioError, ConfigError

_TRANSCRIPT = ".trans.txt"


def recognises(source: Source) -> bool:
    """Whether there are files of transcripts named as it names them."""
    return source.is_folder and bool(source.ending(_TRANSCRIPT))


def rows(source: Source) -> Iterator[Row]:
    """One row a recording, and a fault for a transcript without one."""
    audio = source.ending(*AUDIO_SUFFIXES)
    transcripts = [entry.uri for entry in source.ending(_TRANSCRIPT)]
    if not audio or not transcripts:
        raise ConfigError(
            f"corpus.manifest: LibriSpeech must hold audio and *{_TRANSCRIPT} below its folders, found {len(audio)} "
            f"recordings and {len(transcripts)} such files in {source.uri}"
        )
    recordings: dict[str, list[str]] = defaultdict(list)
    told: dict[str, list[str]] = defaultdict(list)
    for entry in audio:
        recordings[storage.parent(entry.uri)].append(entry.uri)
    for uri in transcripts:
        told[storage.parent(uri)].append(uri)
    folders = sorted({*recordings, *told})
    # The many small files of transcripts are fetched ahead.
    with closing(fetch.fetch_all([uri for folder in folders for uri in told[folder]])) as fetched:
        for folder in folders:
            texts: dict[str, str] = {}
            for uri in told[folder]:
                texts |= yield from _transcripts(uri, next(fetched))
            yield from _chapter(source, folder, recordings[folder], texts)


def _transcripts(uri: str, got: fetch.Fetched | AudioError) -> Generator[Row, None, dict[str, str]]:
    if isinstance(got, AudioError):
        yield fault("missing", str(got), audio=uri, container=True)
        return {}
    try:
        lines = got.data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        yield fault("wrong_encoding", f"{uri} must be UTF-8, found {error}", audio=uri, container=True)
        return {}
    return {key: text.strip() for key, _, text in (line.partition(" ") for line in lines) if key}


def _chapter(source: Source, folder: str, audio: list[str], texts: dict[str, str]) -> Iterator[Row]:
    parts = source.inner(folder).split("/")
    split = split_in(*parts, storage.name(source.uri))
    speaker = folder.split("/")[-2]
    for uri in audio:
        name = stem(storage.name(uri))
        yield {
            "id": name,
            "audio": uri,
            "text": texts.pop(name, None),
            "language": source.language or "en",
            "speaker": speaker,
            "split": split,
        }
    for name in texts:
        message = f"transcripts must have a recording, found none of {name} in {folder}; copy it or drop the line"
        yield fault("missing", message, id=name, audio=f"{folder}/{name}")

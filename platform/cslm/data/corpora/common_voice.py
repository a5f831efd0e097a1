"""Common Voice: tables of clips (`train.tsv`, `dev.tsv`, `test.tsv`, `validated.tsv`) beside `clips/`, by language."""

from collections.abc import Iterator

from cslm import storage
from cslm.data.corpora import text
from cslm.data.corpora.source import CONTAINER, FAULT, Row, Source
from cslm.errors import ConfigError
from cslm.storage import Entry

_CLIPS = "clips"
# Held-out clips first, so that a clip that is listed twice stays held out.
_SPLITS = {"test.tsv": "test", "dev.tsv": "dev", "train.tsv": "train"}
_VALIDATED = "validated.tsv"


def recognises(source: Source) -> bool:
    """Whether it is a table of clips, or a folder with such tables and clips, or one of such folders by language."""
    if not source.is_folder:
        return _is_table(source.uri)
    return bool(_languages(source))


def facts(source: Source) -> list[Entry]:
    """The tables that are read; clips are as many as rows, and are not listed."""
    return [entry for entry, _ in _tables(source)]


def rows(source: Source) -> Iterator[Row]:
    """One row a clip. `validated.tsv` is read where it is named, or where there is no other table."""
    tables = _tables(source)
    if not tables:
        raise ConfigError(
            f"corpus.manifest: Common Voice must hold {_CLIPS}/ and {', '.join(_SPLITS)} or {_VALIDATED}, found "
            f"none in {source.uri}; name the folder of a language, or the one above it"
        )
    for entry, split in tables:
        folder = storage.parent(entry.uri)
        held_out = _held_out(folder) if storage.name(entry.uri) == _VALIDATED else {}
        for row in text.delimited(entry.uri):
            yield _row(source, folder, row, split, held_out)


def _row(source: Source, folder: str, row: Row, split: str, held_out: dict[str, str]) -> Row:
    if row.get(CONTAINER):
        return row
    path = row.get("path") or ""
    name = path.rpartition("/")[2].removesuffix(".mp3")
    if FAULT in row:
        return {**row, "id": name or None, "audio": path}
    # Tables of the first releases name clips without their ending.
    audio = source.audio(path if "." in path else f"{path}.mp3", f"{folder}/{_CLIPS}", absolute=False) if path else {}
    return {
        "id": name,
        "text": row.get("sentence"),
        "language": row.get("locale") or source.language or storage.name(folder),
        "speaker": row.get("client_id"),
        "split": held_out.get(path, split),
        **audio,
    }


def _tables(source: Source) -> list[tuple[Entry, str]]:
    """The tables to read, each with its split."""
    if not source.is_folder:
        return [(entry, _SPLITS.get(storage.name(entry.uri), "train")) for entry in source.entries]
    found = []
    for folder in _languages(source):
        files = {storage.name(entry.uri): entry for entry in storage.list_folder(folder)[1]}
        split = [(files[name], split) for name, split in _SPLITS.items() if name in files]
        found += split or [(files[_VALIDATED], "train")]
    return found


def _languages(source: Source) -> list[str]:
    """Folders with clips and tables: the source itself, or those right below it."""
    folders, files = source.top
    if _CLIPS in folders and _has_tables(files):
        return [source.uri]
    places = source.folders_with(_CLIPS) if _CLIPS not in folders else []
    return [place for place in places if _has_tables([storage.name(e.uri) for e in storage.list_folder(place)[1]])]


def _has_tables(files: list[str]) -> bool:
    return any(name in files for name in (*_SPLITS, _VALIDATED))


def _is_table(uri: str) -> bool:
    return uri.lower().endswith(".tsv") and {"client_id", "path", "sentence"} <= set(text.first_row(uri))


def _held_out(folder: str) -> dict[str, str]:
    """Clips that the tables beside `validated.tsv` keep for dev and test."""
    held_out: dict[str, str] = {}
    for name in ("dev.tsv", "test.tsv"):
        uri = storage.join(folder, name)
        if storage.entry(uri):
            held_out |= {row["path"]: _SPLITS[name] for row in text.delimited(uri) if FAULT not in row}
    return held_out

"""The table of formats: what each makes, and how a corpus is told to be of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from cslm import storage
from cslm.config import fingerprint
from cslm.data.texts import (
    alpaca,
    delimited,
    files,
    json_rows,
    messages,
    moses,
    pairs,
    parquet_rows,
    sharegpt,
    tags,
    tmx,
)
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Dialogue, Fault, Record, Records, Row
from cslm.data.texts.settings import LanguagesSection, SourceSection
from cslm.errors import ConfigError

_JSON, _PARQUET = "json", "parquet"
_CONTAINERS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": _JSON,
    ".ndjson": _JSON,
    ".json": _JSON,
    ".parquet": _PARQUET,
    ".tmx": "tmx",
}
_FORMAT_VERSION = 1
_ROWS_LOOKED_AT = 100


@dataclass(frozen=True)
class Format:
    """One format: the table it makes, the kinds of files it lies in, and its reader."""

    table: str
    containers: tuple[str, ...]
    read: Callable[[TextFile, SourceSection, LanguagesSection], Records]


@dataclass(frozen=True)
class Corpus:
    """A corpus as it was found: the name of its format, its files in order, and a key of both and their content."""

    format: str
    files: list[TextFile]
    key: str

    @property
    def table(self) -> str:
        """The table that it becomes."""
        return FORMATS[self.format].table


def find(source: SourceSection, languages: LanguagesSection) -> Corpus:
    """The corpus that the settings name. Raises ConfigError when there is none, or its format cannot be told."""
    path = storage.absolute(source.path)
    name: str = source.format
    found = _line_pairs(path, source, languages)
    if found:
        name = "moses"
    elif name == "moses":
        raise ConfigError(
            f"source.path: line pairs need two files, {path}.{languages.source or 'LANGUAGE'} and "
            f"{path}.{languages.target or 'LANGUAGE'} (.gz too), found none; give languages.source and "
            "languages.target as the names end, or the second file as source.target_path"
        )
    else:
        found = _files(path, name)
        name = _detected(found[0], source) if name == "auto" else name
    facts = [[one, storage.listing_digest(one)] for file in found for one in (file.uri, file.partner) if one]
    return Corpus(name, found, fingerprint([_FORMAT_VERSION, name, facts, source.columns.model_dump()]))


def read(corpus: Corpus, source: SourceSection, languages: LanguagesSection) -> Iterator[tuple[TextFile, Record]]:
    """Every row of the corpus in order, with the file it comes from."""
    for file in corpus.files:
        for record in FORMATS[corpus.format].read(file, source, languages):
            yield file, record


def _line_pairs(path: str, source: SourceSection, languages: LanguagesSection) -> list[TextFile]:
    if source.format not in ("auto", "moses"):
        return []
    target_path = storage.absolute(source.target_path) if source.target_path else None
    if target_path is None and (languages.source is None or languages.target is None):
        return []
    two = moses.partner_of(path, target_path, str(languages.source), str(languages.target))
    return [TextFile(*two)] if two else []


def _files(path: str, name: str) -> list[TextFile]:
    if not storage.exists(path):
        raise ConfigError(
            f"source.path: must be a file or a folder, or what the names of line pairs share (then languages.source "
            f"and languages.target are needed), found nothing at {path}"
        )
    if not storage.is_folder(path):
        if name == "auto" and files.suffix(path) not in _CONTAINERS:
            raise ConfigError(
                f"source.format: must be given for a file not named {', '.join('*' + end for end in _CONTAINERS)} "
                f"(.gz too), found {path}"
            )
        return [TextFile(path)]
    found = [file for file in files.of_folder(path) if files.suffix(file.uri) in _CONTAINERS]
    kinds = {_CONTAINERS[files.suffix(file.uri)] for file in found}
    wanted = kinds if name == "auto" else kinds & set(FORMATS[name].containers)
    if len(wanted) != 1:
        raise ConfigError(
            f"source.path: a folder must hold files of one kind ({', '.join(_CONTAINERS)}; .gz too), found "
            f"{sorted(wanted) or 'none'} in {path}; name one file or give source.format"
        )
    return [file for file in found if _CONTAINERS[files.suffix(file.uri)] in wanted]


def _detected(file: TextFile, source: SourceSection) -> str:
    """The format of a file by its name, or by the keys of its first row that can be read."""
    container = _CONTAINERS[files.suffix(file.uri)]
    if container not in (_JSON, _PARQUET):
        return container
    first = next((row for row in islice(_rows(file), _ROWS_LOOKED_AT) if not isinstance(row, Fault)), None)
    if first is None:
        raise ConfigError(f"source.path: {file.uri} must hold rows, found none that can be read")
    chosen = source.columns.source is not None or source.columns.target is not None
    if not chosen:
        for name, keys in (("sharegpt", (sharegpt.KEY,)), ("messages", (messages.KEY,)), ("alpaca", alpaca.REQUIRED)):
            if all(key in first for key in keys):
                return name
    return "jsonl" if container == _JSON else "parquet"


def _rows(file: TextFile, columns: tuple[str, ...] | None = None) -> Iterator[Row | Fault]:
    """Rows of a JSON or Parquet file; a name that says neither is taken for JSON."""
    is_parquet = _CONTAINERS.get(files.suffix(file.uri), _JSON) == _PARQUET
    return _with_values(file, parquet_rows.rows(file, columns) if is_parquet else json_rows.rows(file))


def _with_values(file: TextFile, rows: Iterator[Row | Fault]) -> Iterator[Row | Fault]:
    """Rows with the values that hive folders name (`split=test`)."""
    if not file.values:
        return rows
    return (row if isinstance(row, Fault) else {**file.values, **row} for row in rows)


def _pairs_of_tsv(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    return _pairs_of_lines(file, source, languages, tabs=True)


def _pairs_of_csv(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    return _pairs_of_lines(file, source, languages, tabs=False)


def _pairs_of_lines(file: TextFile, source: SourceSection, languages: LanguagesSection, *, tabs: bool) -> Records:
    given = [column for column in source.columns.model_dump().values() if column is not None]
    places = [column for column in given if column.isdigit()]
    two = [source.columns.source, source.columns.target]
    if places and not all(column is not None and column.isdigit() for column in two):
        raise ConfigError(
            "source.columns: source and target must be numbers when any column is one, which says that there is no "
            f"header line; found {two[0]} and {two[1]}"
        )
    rows = _with_values(file, delimited.rows(file, tabs=tabs, places=places))
    return pairs.read(rows, source.columns, languages, file.uri)


def _pairs_of_json(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    return pairs.read(_with_values(file, json_rows.rows(file)), source.columns, languages, file.uri)


def _pairs_of_parquet(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    given = [column for column in source.columns.model_dump().values() if column is not None]
    named = [pairs.TRANSLATION, "source", "target", *given]
    columns = [
        name
        for name in parquet_rows.columns(file)
        if name in named or any(tags.best_match(one, [name]) for one in (languages.source, languages.target) if one)
    ]
    rows = parquet_rows.rows(file, columns)
    return pairs.read(_with_values(file, rows), source.columns, languages, file.uri)


def _line_pair(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    return moses.read(file)


def _tmx(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
    return tmx.read(file, languages)


def _dialogues(
    read_rows: Callable[[Iterator[Row | Fault]], Records], columns: tuple[str, ...]
) -> Callable[[TextFile, SourceSection, LanguagesSection], Records]:
    def read_file(file: TextFile, source: SourceSection, languages: LanguagesSection) -> Records:
        is_first = True
        for record in read_rows(_rows(file, columns)):
            if is_first and isinstance(record, Dialogue):
                is_first = False
                has_language = record.language is not None or all(turn.language for turn in record.turns)
                if not has_language and languages.source is None:
                    raise ConfigError(f"languages.source: must be given, as the rows of {file.uri} name no language")
            yield record

    return read_file


# What can be read; a new format is a module and a line here.
FORMATS: dict[str, Format] = {
    "tsv": Format("parallel_text", ("tsv",), _pairs_of_tsv),
    "csv": Format("parallel_text", ("csv",), _pairs_of_csv),
    "jsonl": Format("parallel_text", (_JSON,), _pairs_of_json),
    "parquet": Format("parallel_text", (_PARQUET,), _pairs_of_parquet),
    "moses": Format("parallel_text", (), _line_pair),
    "tmx": Format("parallel_text", ("tmx",), _tmx),
    "alpaca": Format("dialogues", (_JSON, _PARQUET), _dialogues(alpaca.read, alpaca.COLUMNS)),
    "sharegpt": Format("dialogues", (_JSON, _PARQUET), _dialogues(sharegpt.read, sharegpt.COLUMNS)),
    "messages": Format("dialogues", (_JSON, _PARQUET), _dialogues(messages.read, messages.COLUMNS)),
}

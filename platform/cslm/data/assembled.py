"""One set of tables from those of several languages, so that a training reads them as one: files under other names.

Nothing is rewritten: a file keeps its folders (`language=../split=..`) and gets the name of its source before its own.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from cslm import storage
from cslm.config import fingerprint
from cslm.errors import ConfigError
from cslm.speech import tokenizer as speech

TABLES = ("units", "parallel_text", "dialogues")
_RECORD = "assembled.json"
_COPIES_AT_ONCE = 32


def assemble(sources: Mapping[str, Mapping[str, Sequence[str]]], target: str) -> dict[str, int]:
    """Put the tables of languages together below `target`; returns how many files each table has.

    `sources`: for each language (any name), by table the folders that hold it: outputs of the tokenize job for units,
    tables for the others. Again after an interruption it finishes;
    what is there already of the same files is kept. Raises ConfigError when units are of several tokenizers.
    """
    tokenizer = _tokenizer(sources)
    files = {table: _files(table, sources) for table in TABLES}
    record = storage.join(target, _RECORD)
    key = fingerprint([files, tokenizer])
    counts = {table: len(found) for table, found in files.items()}
    if storage.exists(record) and storage.read_json(record)["key"] == key:
        return counts
    storage.remove(record)
    for table, found in files.items():
        folder = storage.join(target, table)
        stale = set(storage.list_files(folder)) - {storage.join(folder, name) for name in found}
        for uri in sorted(stale):
            storage.remove(uri)
        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            list(pool.map(lambda one, folder=folder: storage.copy(one[1], storage.join(folder, one[0])), found.items()))
    if tokenizer is not None:
        speech.copy(tokenizer, storage.join(target, "tokenizer"))
    storage.write_text(record, json.dumps({"key": key, "files": counts}) + "\n")
    return counts


def _files(table: str, sources: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """By their new names the files of a table, which are paths below its folder."""
    found: dict[str, str] = {}
    for code, tables in sorted(sources.items()):
        for place, folder in enumerate(tables.get(table, ())):
            inner = storage.join(folder, table) if table == "units" else folder
            for uri in storage.list_files(inner, ".parquet"):
                path = uri.removeprefix(inner).strip("/")
                above, _, name = path.rpartition("/")
                found[storage.join(above, f"{code}-{place}-{name}") if above else f"{code}-{place}-{name}"] = uri
    return found


def _tokenizer(sources: Mapping[str, Mapping[str, Sequence[str]]]) -> str | None:
    folders = [storage.join(one, "tokenizer") for tables in sources.values() for one in tables.get("units", ())]
    prints = {(speech.describe(folder) or {}).get("fingerprint"): folder for folder in folders}
    if len(prints) > 1:
        raise ConfigError(
            f"units of languages that are trained together must be of one tokenizer, found {sorted(map(str, prints))}: "
            "tokenize them anew with one"
        )
    return next(iter(prints.values()), None)

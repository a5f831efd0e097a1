"""A table of prompts as a user has it -> shards by contract, and rejects for the rows that nobody could be asked.

The shards lie beside the output: a job that was interrupted finds the same ones again.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from cslm import contracts, storage
from cslm.config import fingerprint
from cslm.data import language_tags
from cslm.data.ledger import Entry
from cslm.data.texts import json_rows, parquet_rows
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, is_blank
from cslm.errors import ConfigError, ContractError
from cslm.lm.request import Prompt

_RECORD = "prompts.json"
_TEXTS = ("id", "task", "language", "answer_language", "text", "tokenizer", "audio")
_NUMBERS = ("start_s", "end_s")
_HIGHEST_UNIT = (1 << 16) - 1

Row = dict[str, Any]


def prepare(uri: str, output: str, rows_a_shard: int) -> dict[str, Any]:
    """Cut a table of prompts (Parquet, or JSON lines) into shards below `output`, unless they are there.

    Returns {"key", "rows", "rejected", "spoken" (rows with audio), "shards"}. Raises ConfigError for no such table,
    ContractError for one that cannot be read.
    """
    if not storage.exists(uri):
        raise ConfigError(
            f"data.prompts: must be a Parquet or JSONL file, or a folder of Parquet, found nothing at {uri}"
        )
    key = fingerprint([storage.listing_digest(uri), rows_a_shard])
    record = storage.join(output, "prompts", _RECORD)
    if storage.exists(record):
        known: dict[str, Any] = storage.read_json(record)
        if known["key"] == key:
            return known
    storage.remove(storage.join(output, "prompts"))
    contract, rejects_contract = contracts.load("prompts"), contracts.load("rejects")
    waiting: list[Row] = []
    rejects: list[Row] = []
    shards: list[Entry] = []
    num_rows = spoken = 0

    def write() -> None:
        name = f"shard-{len(shards):05d}"
        storage.write_table(contract.table(waiting), shard_file(output, name))
        told = {"name": name, "rows": len(waiting), "language": "", "split": ""}
        shards.append({**told, "digest": fingerprint([key, name])})
        waiting.clear()

    for row, fault in _cleaned(_rows(uri), storage.parent(uri)):
        num_rows += 1
        if fault is not None:
            rejects.append(reject(row, uri, "manifest", *fault))
            continue
        spoken += row["audio"] is not None
        waiting.append(row)
        if len(waiting) == rows_a_shard:
            write()
    if waiting:
        write()
    place = storage.join(output, "rejects", "prompts.parquet")
    storage.remove(place)
    if rejects:
        storage.write_table(rejects_contract.table(rejects), place)
    found = {"key": key, "rows": num_rows, "rejected": len(rejects), "spoken": spoken, "shards": shards}
    storage.write_json(record, found)
    return found


def shard_file(output: str, name: str) -> str:
    """Where the prompts of a shard lie."""
    return storage.join(output, "prompts", f"{name}.parquet")


def read_shard(output: str, name: str) -> list[Row]:
    """The prompts of a shard, `audio` absolute."""
    path = shard_file(output, name)
    rows: list[Row] = contracts.load("prompts").check(storage.read_table(path), path).to_pylist()
    return rows


def prompt_of(row: Row) -> Prompt:
    """A row as it is asked."""
    return Prompt(
        row["task"], row["language"], row["answer_language"], text=row["text"], units=row["units"], id=row["id"]
    )


def reject(row: Row, source: str, stage: str, error: str, message: str) -> Row:
    """A row of the rejects table."""
    fields = {"id": row["id"], "source": row.get("audio") or source, "stage": stage, "error": error}
    return {**fields, "message": message, "start_s": row.get("start_s"), "end_s": row.get("end_s")}


def _rows(uri: str) -> Iterator[Row | Fault]:
    file = TextFile(uri)
    is_parquet = storage.is_folder(uri) or uri.lower().endswith(".parquet")
    return parquet_rows.rows(file) if is_parquet else json_rows.rows(file)


def _cleaned(rows: Iterable[Row | Fault], folder: str) -> Iterator[tuple[Row, tuple[str, str] | None]]:
    """Rows in contract types, and reason and message of what cannot be asked."""
    seen: set[str] = set()
    for number, row in enumerate(rows):
        name = f"row-{number}"
        if isinstance(row, Fault):
            yield {"id": name}, (row.reason, row.message)
            continue
        clean: Row = {"id": name}
        fault = _take(row, clean, folder)
        if fault is None and clean["id"] in seen:
            fault = "duplicate_id", f"ids must be unique, found {clean['id']} again in row {number}"
        seen.add(clean["id"])
        yield clean, fault


def _take(row: Row, clean: Row, folder: str) -> tuple[str, str] | None:
    """Fill `clean` from a row; gives the reason and message when that cannot be done."""
    for name in _TEXTS:
        value = row.get(name)
        if not is_blank(value) and not isinstance(value, str | int):
            return "bad_value", f"column {name} must hold text, found {str(value)[:40]!r}"
        if name != "id" or not is_blank(value):
            clean[name] = None if is_blank(value) else str(value)
    for name in _NUMBERS:
        value = row.get(name)
        if not is_blank(value) and not isinstance(value, int | float):
            return "bad_value", f"column {name} must be a number of seconds, found {str(value)[:40]!r}"
        clean[name] = None if is_blank(value) else float(value)  # type: ignore[arg-type]
    units = row.get("units")
    units = list(units) if isinstance(units, list | tuple) else units
    if units is not None and not (isinstance(units, list) and all(_is_unit(unit) for unit in units)):
        return "bad_value", f"column units must hold whole numbers of 0 to {_HIGHEST_UNIT}, found {str(units)[:40]}"
    clean["units"] = units or None
    for name in ("language", "answer_language"):
        tag = clean[name]
        if tag is not None and (known := language_tags.canonical(tag)) is None:
            return "bad_language", f"{name} must be a BCP-47 tag such as en or zh-CN, found {tag!r}"
        clean[name] = known if tag is not None else None
    for name in ("task", "language"):
        if clean[name] is None:
            return f"no_{name}", f"column {name} must hold a value, found none"
    if clean["audio"] is not None:
        if clean["units"] is not None:
            return "bad_value", "a prompt must have audio or units, found both"
        if not storage.is_uri(clean["audio"]) and not clean["audio"].startswith("/"):
            clean["audio"] = storage.join(folder, clean["audio"])
    # What the recording will give stands for a moment for the units.
    asked = prompt_of({**clean, "units": [0] if clean["audio"] else clean["units"]})
    faults = asked.faults()
    return ("bad_prompt", "; ".join(faults)) if faults else None


def _is_unit(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _HIGHEST_UNIT


def require_readable(found: dict[str, Any], uri: str) -> None:
    """Raise ContractError unless there is something to ask."""
    if not found["shards"]:
        raise ContractError(
            f"data.prompts: must have rows that can be asked, found {found['rows']} rows in {uri} and none of them "
            "can; rejects/ says why for each"
        )

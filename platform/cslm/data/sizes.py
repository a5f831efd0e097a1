"""How much of each group the tables hold, file by file, from their small columns alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from cslm import storage
from cslm.data import sources
from cslm.data.mixture import GroupSize
from cslm.errors import ConfigError
from cslm.lm import examples

_COLUMNS = {
    "units": ("language", "text", "num_frames", "frame_rate_hz", "tokenizer", "split"),
    "parallel_text": sources.COLUMNS["parallel_text"],
    "dialogues": sources.COLUMNS["dialogues"],
}
# Of each file: its rows, and for each of its groups the examples and their size; of units, who made them.
COUNTS_SCHEMA = pa.schema(
    {
        "table": pa.string(),
        "file": pa.string(),
        "rows": pa.int64(),
        "groups": pa.list_(pa.struct({"group": pa.string(), "examples": pa.int64(), "size": pa.float64()})),
        "tokenizers": pa.list_(pa.string()),
    }
)


def count(table: str, uri: str, file: str, split: str) -> dict[str, Any]:
    """One row of COUNTS_SCHEMA for a file.

    The size of an example is its hours of audio where the row is an utterance, else the characters of its texts.
    """
    rows = storage.parquet_schema(file)[1]
    found = sources.read(sources.Piece(table, uri, file, 0, rows), split, _COLUMNS[table])
    groups: dict[str, list[float]] = {}
    for row in found.to_pylist():
        size = _size(table, row)
        for name in examples.groups_of(table, row):
            total = groups.setdefault(name, [0, 0.0])
            total[0] += 1
            total[1] += size
    return {
        "table": table,
        "file": file,
        "rows": rows,
        "groups": [{"group": name, "examples": n, "size": size} for name, (n, size) in sorted(groups.items())],
        "tokenizers": sorted(set(found.column("tokenizer").to_pylist())) if table == "units" else [],
    }


def total(counts: Iterable[dict[str, Any]]) -> dict[str, GroupSize]:
    """The sizes of the groups over files, in the order of the files."""
    sums: dict[str, GroupSize] = {}
    for one in counts:
        for part in one["groups"]:
            before = sums.get(part["group"], GroupSize(0, 0.0))
            sums[part["group"]] = GroupSize(before.examples + part["examples"], before.size + part["size"])
    return dict(sorted(sums.items()))


def one_tokenizer(counts: Sequence[dict[str, Any]]) -> str | None:
    """The tokenizer that made all units. Raises ConfigError when there are several, None when there are no units."""
    found = sorted({name for one in counts for name in one["tokenizers"]})
    if len(found) > 1:
        raise ConfigError(f"data.units: must be made by one tokenizer, found {len(found)}: {', '.join(found)}")
    return found[0] if found else None


def _size(table: str, row: dict[str, Any]) -> float:
    if table == "units":
        return float(row["num_frames"] / row["frame_rate_hz"] / 3600)
    if table == "parallel_text":
        return float(len(row["source"]) + len(row["target"]))
    return float(sum(len(turn["text"]) for turn in row["turns"]))

"""Examples of known lengths as the usual recipe takes them, one by one, and as we do, packed into a table."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cslm import contracts, storage
from cslm.data.packed_rows import VOCABULARY_KEY
from cslm.lm import packing

VOCABULARY, VOCABULARY_HASH = 2560, "benchmark"


@dataclass(frozen=True)
class Example:
    """Token ids and which of them are targets of the loss, both [L]."""

    input_ids: NDArray[np.int64]
    loss_mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Mix:
    """What an optimizer step takes: rows of `row_length` tokens, or so many examples with about as many tokens."""

    row_length: int
    rows: int
    # Rows that a rank computes at a time: more do not make products faster, and their activations leave the caches.
    micro_rows: int
    examples: int


MIXES = {"mixed": Mix(1024, rows=8, micro_rows=4, examples=32), "demo": Mix(512, rows=8, micro_rows=4, examples=32)}
QUICK_MIXES = {
    "mixed": Mix(1024, rows=4, micro_rows=2, examples=16),
    "demo": Mix(512, rows=8, micro_rows=4, examples=32),
}


def world(rank: int, port: int) -> dict[str, str]:
    """The environment of a rank, as torchrun gives it, on a CPU."""
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**ranks, **master, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def length(mix: str, draw: random.Random) -> int:
    """`demo` is short and even; `mixed` has 60 % speech of 100 to 500 tokens, 20 % translation, 20 % long text."""
    if mix == "demo":
        return draw.randint(60, 200)
    kind = draw.random()
    return draw.randint(*((100, 500) if kind < 0.6 else (30, 120) if kind < 0.8 else (100, 1024)))


def lengths_of(mix: str, number: int, seed: int = 0) -> list[int]:
    """Lengths of a number of examples."""
    draw = random.Random(seed)
    return [length(mix, draw) for _ in range(number)]


def examples_of(mix: str, number: int, seed: int = 0) -> list[Example]:
    """Random tokens, the second half of every example its target."""
    tokens = np.random.default_rng(seed)
    return [
        Example(tokens.integers(0, VOCABULARY, size), (np.arange(size) >= size // 2).astype("u1"))
        for size in lengths_of(mix, number, seed)
    ]


def write_packed(folder: Path, examples: list[Example], row_length: int) -> float:
    """Pack whole examples best-fit into a table of rows; returns the share of the rows that is filled."""
    sizes = [len(example.input_ids) for example in examples]
    rows = packing.best_fit(sizes, row_length)
    table = contracts.load("packed").table(
        [
            {
                "input_ids": np.concatenate([examples[item].input_ids for item in row]).astype(np.int32),
                "loss_mask": np.concatenate([examples[item].loss_mask for item in row]),
                "segment_lengths": [sizes[item] for item in row],
                "segment_tasks": ["asr/en"] * len(row),
                "segment_sources": [str(item) for item in row],
            }
            for row in rows
        ]
    )
    metadata = {**(table.schema.metadata or {}), VOCABULARY_KEY: VOCABULARY_HASH.encode()}
    storage.write_table(table.replace_schema_metadata(metadata), str(folder / "rows.parquet"))
    return sum(sizes) / (len(rows) * row_length)


def read_examples(folder: str) -> list[Example]:
    """The examples of a packed table, taken apart again."""
    found = []
    for entry in storage.list_files(folder, ".parquet"):
        rows: pa.Table = storage.read_rows(entry, ["input_ids", "loss_mask", "segment_lengths"])
        for row in rows.to_pylist():
            cuts = np.cumsum(row["segment_lengths"])[:-1]
            ids, masks = np.split(np.array(row["input_ids"]), cuts), np.split(np.array(row["loss_mask"], "u1"), cuts)
            found += [Example(*pair) for pair in zip(ids, masks, strict=True)]
    return found

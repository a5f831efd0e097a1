"""Packing of one bucket: nothing lost, the same rows whatever files the examples came in."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.data import packed_rows
from cslm.data.example_table import SCHEMA
from cslm.errors import CheckpointError


def examples(lengths, first_token=0):
    rows = []
    for number, length in enumerate(lengths):
        ids = np.arange(first_token + 100 * number, first_token + 100 * number + length)
        rows.append(
            {
                "group": ("asr/en", "mt/en-zh")[number % 2],
                "source": f"s{number:03d}",
                "copy": 0,
                "part": 0,
                "length": length,
                "input_ids": ids.tolist(),
                "loss_mask": [int(place >= length // 2) for place in range(length)],
            }
        )
    return rows


def write(folder, name, rows, number_of_groups=2, group=1):
    tables = [pa.Table.from_pylist(rows if place == group else [], schema=SCHEMA) for place in range(number_of_groups)]
    path = f"{folder}/{name}.parquet"
    storage.write_row_groups(tables, path)
    return path


@given(st.lists(st.integers(1, 60), max_size=40), st.randoms())
def test_every_example_lies_whole_in_one_row_whatever_the_files(tmp_path_factory, lengths, random):
    folder = tmp_path_factory.mktemp("bucket")
    rows = examples(lengths)
    table, counts = packed_rows.pack([write(folder, "whole", rows)], 1, 64)
    contracts.load("packed").check(table)
    found = []
    for row in table.to_pylist():
        assert len(row["input_ids"]) == sum(row["segment_lengths"]) == len(row["loss_mask"]) <= 64
        start = 0
        for length, task, source in zip(
            row["segment_lengths"], row["segment_tasks"], row["segment_sources"], strict=True
        ):
            ids, mask = row["input_ids"][start : start + length], row["loss_mask"][start : start + length]
            found.append((task, source, ids, mask))
            start += length
    wanted = [(row["group"], row["source"], row["input_ids"], row["loss_mask"]) for row in rows]
    assert sorted(found) == sorted(wanted)
    assert sum(group["examples"] for group in counts.values()) == len(rows)
    assert sum(group["tokens"] for group in counts.values()) == sum(lengths)
    assert sum(group["targets"] for group in counts.values()) == sum(sum(row["loss_mask"]) for row in rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    cut = len(rows) // 3
    files = [write(folder, "one", shuffled[:cut]), write(folder, "other", shuffled[cut:])]
    again, same = packed_rows.pack(files, 1, 64)
    assert again.equals(table)
    assert same == counts


def test_another_vocabulary_is_refused_with_both_hashes():
    schema = pa.schema({"input_ids": pa.int32()}, metadata={packed_rows.VOCABULARY_KEY: b"aaaa"})
    packed_rows.require_vocabulary("rows.parquet", schema, "aaaa")
    with pytest.raises(CheckpointError, match="vocabulary bbbb, found aaaa"):
        packed_rows.require_vocabulary("rows.parquet", schema, "bbbb")
    with pytest.raises(CheckpointError, match="found none"):
        packed_rows.require_vocabulary("rows.parquet", pa.schema({}), "bbbb")

"""Tables read by pieces: every row once, only the split, and the columns that folders name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.data import sources
from cslm.data.sources import Piece
from cslm.errors import ConfigError, ContractError
from tests.data import tables


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    tables.write(folder, num_utterances=30)
    return folder


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 20))
def test_chunks_hold_every_row_once_in_order(sizes, rows):
    pieces = [Piece("units", "u", f"f{number}", 0, size) for number, size in enumerate(sizes)]
    found = sources.chunks(pieces, rows)
    assert [(p.file, row) for chunk in found for p in chunk for row in range(p.start, p.stop)] == [
        (p.file, row) for p in pieces for row in range(p.stop)
    ]
    held = [sum(p.stop - p.start for p in chunk) for chunk in found]
    assert all(number == rows for number in held[:-1])


def test_pieces_of_a_file_are_its_rows(root):
    uri = str(root / "units" / "units")
    (entry,) = sources.files_of("units", uri, "train")
    columns = sources.COLUMNS["units"]
    whole = sources.read(Piece("units", uri, entry.uri, 0, 27), "train", columns)
    halves = [sources.read(Piece("units", uri, entry.uri, *part), "train", columns) for part in ((0, 11), (11, 99))]
    assert [row for half in halves for row in half.to_pylist()] == whole.to_pylist()
    assert set(whole.column("language").to_pylist()) == {"en"}
    rows = sources.rows_of(whole)
    assert all(isinstance(row["units"], np.ndarray) for row in rows)
    assert [{**row, "units": row["units"].tolist(), "durations": row["durations"].tolist()} for row in rows] == (
        whole.to_pylist()
    )


def test_rows_of_other_splits_are_left_out_where_no_folder_says_so(root):
    uri = str(root / "parallel_text")
    (entry,) = sources.files_of("parallel_text", uri, "train")
    read = sources.read(Piece("parallel_text", uri, entry.uri, 0, 30), "test", sources.COLUMNS["parallel_text"])
    assert read.column("id").to_pylist() == ["p0", "p10", "p20"]
    assert read.column("source_audio").null_count == 3


def test_a_table_without_a_needed_column_is_refused(root, tmp_path):
    table = contracts.load("parallel_text").table([]).drop_columns(["target"])
    storage.write_table(table, str(tmp_path / "part.parquet"))
    with pytest.raises(ContractError, match="column target"):
        sources.read(
            Piece("parallel_text", str(tmp_path), str(tmp_path / "part.parquet"), 0, 1),
            "train",
            sources.COLUMNS["parallel_text"],
        )


def test_a_table_that_is_not_there_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.dialogues"):
        sources.files_of("dialogues", str(tmp_path / "none"), "train")

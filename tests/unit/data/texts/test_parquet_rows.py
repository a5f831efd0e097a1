import pyarrow as pa
import pytest

from cslm import storage
from cslm.data.texts import parquet_rows
from cslm.data.texts.files import TextFile
from cslm.errors import ContractError


def test_rows_have_the_columns_that_are_looked_at(tmp_path):
    table = pa.table({"text": [f"{n}" for n in range(3000)], "vector": [[0.0]] * 3000})
    storage.write_table(table, str(tmp_path / "a.parquet"))
    file = TextFile(str(tmp_path / "a.parquet"))
    rows = parquet_rows.rows(file, ["text", "absent"])
    assert next(rows) == {"text": "0"}
    assert 0 < file.position < file.num_bytes
    assert [row["text"] for row in rows] == [f"{n}" for n in range(1, 3000)]
    assert file.position == file.num_bytes
    assert parquet_rows.columns(file) == ["text", "vector"]


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(ContractError, match="must be a whole Parquet file"):
        list(parquet_rows.rows(TextFile(str(tmp_path / "a.parquet"))))

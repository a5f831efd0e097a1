import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.data.texts import json_rows
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault
from cslm.errors import ContractError

ROWS = [{"text": 'é "[1, 2]"', "n": 1}, {"text": "大\n\\", "nested": [{"a": None}]}, {}]


def read(path):
    return [row.message if isinstance(row, Fault) else row for row in json_rows.rows(TextFile(str(path)))]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_and_lines_hold_the_same(tmp_path, indent):
    (tmp_path / "lines.jsonl").write_text("\n\n".join(json.dumps(row) for row in ROWS))
    (tmp_path / "array.json").write_text("\ufeff \n" + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n")
    (tmp_path / "array.json.gz").write_bytes(gzip.compress((tmp_path / "array.json").read_bytes()))
    assert read(tmp_path / "lines.jsonl") == read(tmp_path / "array.json") == read(tmp_path / "array.json.gz") == ROWS


JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(max_size=3), JSON), max_size=5), piece=st.integers(1, 40))
def test_an_array_is_read_whole_wherever_its_pieces_end(tmp_path_factory, rows, piece):
    path = tmp_path_factory.getbasetemp() / "pieces.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_PIECE_CHARS", piece)
        assert read(path) == rows


def test_what_is_no_object_is_a_fault_and_the_rest_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n"text"\n{"a": "\xff"}\n{"a": 2}\n')
    found = read(tmp_path / "a.jsonl")
    assert found[0] == {"a": 1}
    assert found[1].startswith("line 2 must be JSON, found")
    assert found[2] == "line 3 must be a JSON object, found 'text'"
    assert found[3].startswith("line 4 must be JSON, found 'utf-8' codec")
    assert found[4] == {"a": 2}
    (tmp_path / "b.json").write_text('[{"a": 1}, 7, null, {"a": 2}]')
    assert read(tmp_path / "b.json") == [
        {"a": 1},
        "element 2 must be a JSON object, found '7'",
        "element 3 must be a JSON object, found 'None'",
        {"a": 2},
    ]


@pytest.mark.parametrize("content", ['[{"a": 1}, {"a"', '[{"a": 1}', '[{"a": 1}, {"a": oh}, {"a": 3}]', "["])
def test_a_damaged_array_is_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ContractError, match="must be one whole JSON array"):
        read(tmp_path / "a.json")


def test_a_damaged_array_is_told_before_all_of_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_PIECE_CHARS", 100)
    monkeypatch.setattr(json_rows, "_LONGEST_OBJECT_CHARS", 1000)
    (tmp_path / "a.json").write_text('[{"a": oh},' + '{"a": 1},' * 10_000 + "{}]")
    with pytest.raises(ContractError, match="element 1 of the array must be JSON"):
        read(tmp_path / "a.json")

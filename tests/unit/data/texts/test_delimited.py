import pytest

from cslm.data.texts import delimited
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault
from cslm.errors import ConfigError


def read(tmp_path, content, *, tabs=True, places=()):
    (tmp_path / "file").write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = delimited.rows(TextFile(str(tmp_path / "file")), tabs=tabs, places=places)
    return [row.message if isinstance(row, Fault) else row for row in rows]


def test_tabs_are_never_quoted(tmp_path):
    found = read(tmp_path, '\ufeffsource\ttarget\r\n"Hi" he said\t"Hola\r\n\r\nb\tc\n')
    assert found == [{"source": '"Hi" he said', "target": '"Hola'}, {"source": "b", "target": "c"}]


def test_commas_are_quoted_over_lines_too(tmp_path):
    found = read(tmp_path, 'source,target\n"a, b","c ""d""\nsecond line"\ne,f\n', tabs=False)
    assert found == [{"source": "a, b", "target": 'c "d"\nsecond line'}, {"source": "e", "target": "f"}]


@pytest.mark.parametrize("tabs", [True, False])
def test_rows_of_another_width_and_other_bytes_than_utf8_are_faults(tmp_path, tabs):
    mark = b"\t" if tabs else b","
    lines = [b"source", b"target"], [b"a"], [b"caf\xe9", b"x"], [b"a", b"b", b"c"], [b"\xc3\xa9", b"ok"]
    found = read(tmp_path, b"".join(mark.join(line) + b"\n" for line in lines), tabs=tabs)
    assert found[0] == "line 2 must have 2 fields (source, target), found 1"
    assert found[1].startswith("line 3 must be UTF-8, found")
    assert found[2].endswith("found 3")
    assert found[3:] == [{"source": "é", "target": "ok"}]


def test_a_quote_that_never_ends_costs_what_it_takes_in_and_no_more(tmp_path):
    content = 'source,target\na,b\n"c,d\n' + "e,f\n" * 50_000
    found = read(tmp_path, content, tabs=False)
    assert found[0] == {"source": "a", "target": "b"}
    assert "must be CSV, found field larger than field limit" in found[1]
    assert found[-1] == {"source": "e", "target": "f"}


def test_without_a_header_columns_are_places(tmp_path):
    found = read(tmp_path, "0.9\ta\tb\n0.8\tc\n0.7\td\te\tf\n", places=["2", "3"])
    assert found[0] == {"1": "0.9", "2": "a", "3": "b"}
    assert found[1] == "line 2 must have at least 3 fields, found 2"
    assert found[2]["3"] == "e"


def test_a_header_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must name the columns"):
        read(tmp_path, b"caf\xe9\tb\nc\td\n")
    assert read(tmp_path, b"") == []

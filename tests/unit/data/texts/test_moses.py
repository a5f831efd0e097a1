import gzip

import pytest

from cslm.data.texts import moses
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Pair
from cslm.errors import ConfigError, ContractError


def write(tmp_path, source, target):
    (tmp_path / "c.en").write_bytes(source)
    (tmp_path / "c.zh").write_bytes(target)
    return TextFile(str(tmp_path / "c.en"), str(tmp_path / "c.zh"))


def test_lines_are_paired_by_number_and_only_line_feeds_count(tmp_path):
    file = write(tmp_path, "one\n\ntwo\u2028more\r\n".encode(), "一\n空\n二\n".encode())
    assert list(moses.read(file)) == [Pair("one", "一"), Pair("", "空"), Pair("two\u2028more", "二")]
    assert file.position == file.num_bytes


@pytest.mark.parametrize(("source", "target"), [(b"a\nb\nc\n", b"x\ny\n"), (b"a\nb", b"x\ny\n\n")])
def test_another_number_of_lines_is_told_with_both_numbers(tmp_path, source, target):
    counts = [len(list(text.splitlines())) for text in (source, target)]
    with pytest.raises(ContractError, match=f"found {counts[0]} in .*c.en and {counts[1]} in .*c.zh"):
        list(moses.read(write(tmp_path, source, target)))


def test_other_bytes_than_utf8_cost_their_line_only(tmp_path):
    found = list(moses.read(write(tmp_path, b"caf\xe9\nb\n", b"x\ny\n")))
    assert (found[0].reason, found[1]) == ("unreadable_row", Pair("b", "y"))
    assert "line 1 must be UTF-8 in both files" in found[0].message


def test_the_two_files_are_found_by_what_their_names_share_or_by_the_first(tmp_path):
    for name in ("a.en", "a.zh", "b.v1.en.gz", "b.v1.zh.gz", "odd"):
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    folder = str(tmp_path)
    plain, packed = (f"{folder}/a.en", f"{folder}/a.zh"), (f"{folder}/b.v1.en.gz", f"{folder}/b.v1.zh.gz")
    assert moses.partner_of(f"{folder}/a", None, "en", "zh") == plain
    assert moses.partner_of(f"{folder}/a.en", None, "en", "zh") == plain
    assert moses.partner_of(f"{folder}/b.v1", None, "en", "zh") == packed
    assert moses.partner_of(f"{folder}/b.v1.en.gz", None, "en", "zh") == packed
    assert moses.partner_of(f"{folder}/a", None, "en", "fr") is None
    assert moses.partner_of(f"{folder}/a.en", f"{folder}/odd", "en", "zh") == (f"{folder}/a.en", f"{folder}/odd")
    with pytest.raises(ConfigError, match=r"source\.target_path: .* found nothing at"):
        moses.partner_of(f"{folder}/a.en", f"{folder}/none", "en", "zh")

import gzip

import pytest

from cslm.data.texts import tmx
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, Pair
from cslm.data.texts.settings import LanguagesSection
from cslm.errors import ConfigError, ContractError

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>'
TAIL = "</body></tmx>"


def unit(source, target, languages=("en", "zh"), extra="", attribute="xml:lang"):
    texts = zip(languages, (source, target), strict=True)
    inner = "".join(f'<tuv {attribute}="{tag}"><seg>{text}</seg></tuv>' for tag, text in texts)
    return f"<tu {extra}><note>not this</note>{inner}</tu>"


def read(tmp_path, content, source="en", target="zh"):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "m.tmx").write_bytes(data)
    return list(tmx.read(TextFile(str(tmp_path / "m.tmx")), LanguagesSection(source=source, target=target)))


def test_units_become_pairs_in_order(tmp_path):
    content = HEAD + unit("One &amp; two", "一和二", extra='tuid="7"') + unit("Three", "三") + TAIL
    assert read(tmp_path, content) == [Pair("One & two", "一和二", "7"), Pair("Three", "三")]


def test_variants_of_a_language_match_and_the_exact_one_goes_first(tmp_path):
    three = '<tu><tuv xml:lang="en-GB"><seg>colour</seg></tuv><tuv xml:lang="EN"><seg>color</seg></tuv>'
    three += '<tuv lang="zh_CN"><seg>颜色</seg></tuv></tu>'
    assert read(tmp_path, HEAD + three + TAIL) == [Pair("color", "颜色")]
    assert read(tmp_path, HEAD + three + TAIL, source="en-GB") == [Pair("colour", "颜色")]
    (fault,) = read(tmp_path, HEAD + three + TAIL, target="fr")
    assert (fault.reason, fault.message) == (
        "no_language",
        "the unit must have a text in fr, found ['EN', 'en-GB', 'zh_CN']",
    )


def test_codes_of_programs_are_no_text_but_what_they_stand_around_is(tmp_path):
    text = (
        'A <bpt i="1">&lt;b&gt;</bpt><hi type="term">bold</hi><ept i="1">&lt;/b&gt;</ept> word<ph>{0}<sub>x</sub></ph>.'
    )
    assert read(tmp_path, HEAD + unit(text, "一") + TAIL) == [Pair("A bold word.", "一")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_other_encodings_are_read(tmp_path, encoding):
    content = HEAD.replace("UTF-8", "UTF-16" if encoding == "utf-16" else "UTF-8") + unit("é", "一") + TAIL
    assert read(tmp_path, content.encode(encoding)) == [Pair("é", "一")]


def test_a_large_file_is_a_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(tmx, "_PIECE_BYTES", 512)
    path = tmp_path / "m.tmx.gz"
    path.write_bytes(gzip.compress((HEAD + "".join(unit(f"n{n}", f"第{n}") for n in range(500)) + TAIL).encode()))
    records = tmx.read(TextFile(str(path)), LanguagesSection(source="en", target="zh"))
    units = []
    real = tmx._Units

    def kept(*arguments):
        units.append(real(*arguments))
        return units[0]

    monkeypatch.setattr(tmx, "_Units", kept)
    assert next(records) == Pair("n0", "第0")
    # What waits is what one piece holds, not what the file holds.
    assert len(units[0]._ready) == 0
    assert [record.source for record in records] == [f"n{n}" for n in range(1, 500)]


BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
PARAMETER = '<!DOCTYPE tmx [<!ENTITY % a SYSTEM "http://127.0.0.1/x.dtd"> %a;]>'


@pytest.mark.parametrize("declaration", [BOMB, OUTSIDE, PARAMETER])
def test_files_that_declare_entities_are_refused(tmp_path, declaration):
    content = f'<?xml version="1.0"?>{declaration}<tmx><body>{unit("&a;", "x")}</body></tmx>'
    with pytest.raises(ContractError, match="must not declare entities"):
        read(tmp_path, content)


def test_an_entity_that_only_the_dtd_would_know_costs_its_unit(tmp_path):
    found = read(tmp_path, HEAD + unit("caf&eacute;", "x") + unit("a", "b") + TAIL)
    assert found == [Fault("unreadable_row", "the entity &eacute; must be a character", None), Pair("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + unit("a", "b"), "must be well-formed XML"),
        (HEAD + "<tu><tuv></tu>" + TAIL, "must be well-formed XML"),
        ("", "must be well-formed XML"),
        ("<html><body/></html>", "must be TMX"),
    ],
)
def test_what_is_no_whole_tmx_is_told(tmp_path, content, message):
    with pytest.raises(ContractError, match=message):
        read(tmp_path, content)


def test_both_languages_are_needed(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, HEAD + TAIL, source=None, target=None)
    assert len(caught.value.faults) == 2

import pytest

from cslm.data.texts import pairs
from cslm.data.texts.records import Fault, Pair
from cslm.data.texts.settings import ColumnsSection, LanguagesSection
from cslm.errors import ConfigError

BOTH = {"source": "en", "target": "zh"}


def read(rows, languages=BOTH, **columns):
    return list(pairs.read(iter(rows), ColumnsSection(**columns), LanguagesSection(**languages), "the file"))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"source": "a", "target": "b"}, {}),
        ({"en-US": "a", "zh_CN": "b", "de": "c"}, {}),
        ({"translation": {"zh": "b", "en": "a"}}, {}),
        ({"src": "a", "tgt": "b", "source": "x"}, {"source": "src", "target": "tgt"}),
        ({"1": "a", "2": "b"}, {"source": 1, "target": 2}),
    ],
)
def test_the_texts_are_found(row, columns):
    assert read([row], **columns) == [Pair("a", "b")]


def test_a_row_names_its_id_languages_and_split():
    row = {"nr": 7, "source": "a", "target": "b", "source_language": "de", "target_language": "fr", "part": "dev"}
    assert read([row], {}, id="nr", split="part") == [Pair("a", "b", 7, "de", "fr", "dev")]


def test_rows_may_lack_what_the_first_one_has():
    first = {"translation": {"en": "a", "zh": "b"}, "id": "x"}
    found = read([first, {"translation": {"en": "a"}}, {"translation": "a"}, {"translation": {"en": "c", "zh": None}}])
    assert found[0] == Pair("a", "b", "x")
    assert (found[1].reason, found[1].message) == (
        "no_language",
        "translation must have a text in zh, found ['en']",
    )
    assert found[2].reason == "unreadable_row"
    assert found[3] == Pair("c", None)
    assert read([{"source": "a", "target": "b"}, {"source": "c"}])[1] == Pair("c", None)


def test_faults_pass_and_do_not_decide_the_columns():
    fault = Fault("unreadable_row", "why")
    assert read([fault, {"source": "a", "target": "b"}]) == [fault, Pair("a", "b")]


def test_all_that_is_missing_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read([{"src": "a", "tgt": "b"}], {"source": "en"})
    assert len(caught.value.faults) == 3
    assert "languages.target: must be given" in str(caught.value)
    assert "source.columns.source: must name a column of the file, looked for source or en" in str(caught.value)
    with pytest.raises(ConfigError, match=r"languages\.source: must be given"):
        read([{"translation": {"en": "a", "zh": "b"}}], {})

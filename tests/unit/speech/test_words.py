import itertools
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.errors import MissingDependency
from cslm.speech import words as module
from cslm.speech.words import notice, words


def texts(text, language):
    return [text[start:end] for start, end in words(text, language)]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Don't stop — it's well-known, isn't it?", ["Don't", "stop", "it's", "well-known", "isn't", "it"]),
        ("en", "'quoted' (and/or) 3.14, 10:30. end.", ["quoted", "and", "or", "3.14", "10:30", "end"]),
        ("fr", "« L'été », dit-elle…", ["L'été", "dit-elle"]),
        ("es", "¿Qué hora es?", ["Qué", "hora", "es"]),
        ("ar", "السَّلامُ عليكم، كيف حالك؟", ["السَّلامُ", "عليكم", "كيف", "حالك"]),
        ("fa", "می‌خواهم بروم", ["می‌خواهم", "بروم"]),
        ("hi", "नमस्ते, दुनिया।", ["नमस्ते", "दुनिया"]),
        ("zh", "我喜欢用iPhone 15打电话。", ["我", "喜欢", "用", "iPhone", "15", "打电话"]),
        ("ja", "私は猫が好きです。", ["私", "は", "猫", "が", "好き", "です"]),
        ("th", "ฉันมีแมว 3ตัว", ["ฉัน", "มี", "แมว", "3", "ตัว"]),
        ("en", "He said 你好 twice.", ["He", "said", "你好", "twice"]),
        ("km", "ខ្ញុំ", ["ខ្ញុំ"]),
        ("lo", "ໄປ", ["ໄປ"]),
        ("my", "မင်္ဂလာ", ["မ", "င်္ဂ", "လာ"]),
        ("en", " ... — ", []),
        ("en", "", []),
    ],
)
def test_words_of(language, text, expected):
    assert texts(text, language) == expected


def letters_of(*ranges):
    return st.sampled_from([chr(code) for first, last in ranges for code in range(ord(first), ord(last) + 1)])


SCRIPTS = {
    "en": letters_of(("A", "z"), ("À", "ſ"), ("0", "9")),
    "zh": st.one_of(letters_of(("一", "丿"), ("我", "戠"), ("中", "丱")), letters_of(("a", "e"))),
    "ar": letters_of(("\u0610", "\u06ff")),
    "hi": letters_of(("\u0900", "\u097f")),
    "th": letters_of(("\u0e01", "\u0e5b")),
    "ja": letters_of(("ぁ", "ん"), ("ァ", "ヺ"), ("一", "丿")),
}


def test_an_apostrophe_behind_a_marked_letter_of_another_script_is_no_part_of_a_word():
    assert texts("ぁ\u0301'1", "ja") == ["ぁ\u0301", "1"]
    assert texts("e\u0301'a", "fr") == ["e\u0301'a"]


@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def test_every_letter_and_digit_is_in_one_word(language, data):
    pieces = st.one_of(SCRIPTS[language], st.sampled_from(list(" .,'-’،。！·\u0301\u200c1٣_/")))
    text = "".join(data.draw(st.lists(pieces, max_size=30)))
    spans = words(text, language)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= following[0] for one, following in itertools.pairwise(spans))
    inside = {place for start, end in spans for place in range(start, end)}
    letters = {place for place, character in enumerate(text) if unicodedata.category(character)[0] in "LN"}
    assert letters <= inside
    # Punctuation is in a word between letters only.
    for start, end in spans:
        for place in {start, end - 1}:
            assert unicodedata.category(text[place])[0] in "LMN"


def test_without_the_library_letters_stand_for_words(monkeypatch):
    def missing(kind):
        raise MissingDependency("jieba", "words", "finding Chinese words")

    monkeypatch.setattr(module, "_segmenter", missing)
    assert texts("我喜欢你 ok", "zh") == ["我", "喜", "欢", "你", "ok"]
    assert texts("ก็ไป", "th") == ["ก็", "ไป"]
    assert "pip install 'cslm[words]'" in (notice("zh-CN") or "")


def test_what_is_told_of_a_language():
    assert notice("en") is None
    assert notice("zh") is None
    assert "Khmer" in (notice("km") or "")


def test_chinese_words_leave_and_read_nothing_in_the_common_folder(monkeypatch, tmp_path):
    (tmp_path / "jieba.cache").write_bytes(b"planted by somebody else")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module._segmenter.cache_clear()
    assert texts("我喜欢你", "zh") == ["我", "喜欢", "你"]
    assert [path.name for path in Path(tmp_path).iterdir()] == ["jieba.cache"]
    assert (tmp_path / "jieba.cache").read_bytes() == b"planted by somebody else"

import pytest

from cslm.data.texts import tags


@pytest.mark.parametrize(
    ("wanted", "found", "best"),
    [
        ("en", ["fr", "en"], "en"),
        ("en", ["en-US", "en"], "en"),
        ("en", ["EN_us"], "EN_us"),
        ("en-US", ["en-GB", "en"], "en"),
        ("en-US", ["en-GB"], None),
        ("zh", ["zh-Hant-TW"], "zh-Hant-TW"),
        ("e", ["en"], None),
        ("en", ["eng"], None),
        ("en", [], None),
    ],
)
def test_the_nearest_tag_of_the_language_is_taken(wanted, found, best):
    assert tags.best_match(wanted, found) == best


@pytest.mark.parametrize(("text", "good"), [("en", True), ("zh-Hant-TW", True), ("en_US", False), ("", False)])
def test_tags_have_a_form(text, good):
    assert tags.is_tag(text) == good

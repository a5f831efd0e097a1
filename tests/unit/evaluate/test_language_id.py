import pytest

from cslm.evaluate.language_id import Identifier, primary


@pytest.mark.parametrize(
    ("text", "language"),
    [
        *[("Eight.", "en"), ("Ocho.", "es"), ("八。", "zh"), ("El cielo es azul.", "es"), ("¿Qué día es hoy?", "es")],
        *[("15", None), ("", None)],
    ],
)
def test_short_answers_are_told_apart(text, language):
    assert Identifier(["en", "es", "zh-CN"]).identify(text) == language


def test_what_cannot_be_told_is_neither_on_nor_off_target():
    identifier = Identifier(["en", "es", "zh", "tlh"])
    assert identifier.is_off_target("Ocho.", "es-MX") is False
    assert identifier.is_off_target("Eight.", "es") is True
    assert identifier.is_off_target("15", "es") is None
    assert identifier.is_off_target("nuqneH", "tlh") is None


def test_there_are_two_languages_to_choose_between_at_least():
    assert Identifier(["en"]).languages == ["en", "zh"]
    assert Identifier([]).languages == ["en", "zh"]
    assert Identifier(["es", "fr"]).languages == ["es", "fr"]


def test_the_same_language_by_another_tag():
    assert {primary(tag) for tag in ("zh", "zh-CN", "cmn-Hans", "ZH")} == {"zh"}

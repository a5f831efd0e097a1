import pytest

from cslm.data import language_tags


@pytest.mark.parametrize(
    ("tag", "written"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("zh-cn", "zh-CN"),
        ("sr-latn-rs", "sr-Latn-RS"),
        ("rm-sursilv", "rm-sursilv"),
        ("yue", "yue"),
    ],
)
def test_a_tag_is_written_in_one_way(tag, written):
    assert language_tags.canonical(tag) == written
    assert language_tags.is_language(tag)


@pytest.mark.parametrize("tag", ["", "e", "en_US", "en us", "en-", "../en", "日本語"])
def test_what_has_not_the_shape_of_a_tag_is_none(tag):
    assert language_tags.canonical(tag) is None


@pytest.mark.parametrize("tag", ["jp", "cn-CN", "us", "english", "gree", "xx"])
def test_countries_and_names_are_no_languages(tag):
    assert language_tags.canonical(tag) is not None
    assert not language_tags.is_language(tag)

import random

import pytest

from cslm.data import locators
from cslm.data.locators import Locator


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "/data/take #3.wav",
        "s3://bucket/a#b.flac",
        "x#bytes=1-",
        "x#bytes=-1",
        "x#row=1",
        "x#row=a&column=b",
        "#bytes=1-2",
        "x#bytes=1-2.wav",
        "",
    ],
)
def test_whatever_does_not_end_like_an_address_is_the_name_of_a_file(name):
    assert locators.parse(name) == Locator(name)


def test_addresses_come_back_from_their_text():
    assert locators.of_bytes("s3://b/x#1.tar", 512, 100) == "s3://b/x#1.tar#bytes=512-611"
    assert locators.parse("s3://b/x#1.tar#bytes=512-611") == Locator("s3://b/x#1.tar", 512, 100)
    assert locators.parse(locators.of_bytes("x", 512, 0)) == Locator("x", 512, 0)
    assert locators.of_row("d/t.parquet", 17, "audio.bytes") == "d/t.parquet#row=17&column=audio.bytes"
    assert locators.parse("d/t.parquet#row=17&column=audio.bytes") == Locator(
        "d/t.parquet", row=17, column="audio.bytes"
    )


def test_order_is_that_of_the_container_and_not_of_the_digits():
    parts = [locators.of_bytes("a.tar", start, 9) for start in (512, 5120, 10240, 100000)]
    parts += ["b.wav", *(locators.of_row("c.parquet", row, "audio") for row in (2, 10, 100))]
    mixed = random.Random(0).sample(parts, len(parts))
    assert sorted(mixed, key=locators.order) == parts

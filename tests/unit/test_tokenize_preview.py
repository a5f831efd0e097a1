"""A dry run's sample and what it is multiplied to."""

from collections import Counter

import pytest

from cslm.apps.tokenize_preview import PricesSection, num_words, project, sample
from cslm.data.manifest import Manifest

SHARDS = [
    *({"name": f"e{i}", "language": "en", "split": "train", "rows": 100} for i in range(9)),
    {"name": "e-test", "language": "en", "split": "test", "rows": 50},
    {"name": "z0", "language": "zh", "split": "train", "rows": 50},
]


def test_every_language_and_split_is_in_the_sample_by_its_share():
    chosen = sample(SHARDS, 100)
    by_name = Counter({name: len(rows) for name, rows in chosen.items()})
    assert sum(count for name, count in by_name.items() if name[0] == "e" and name != "e-test") == 90
    assert (by_name["e-test"], by_name["z0"]) == (5, 5)
    assert len(chosen) > 8  # spread over the shards
    assert all(len(set(rows)) == len(rows) and max(rows) < 100 for rows in chosen.values())
    assert chosen == sample(SHARDS, 100)


def test_a_sample_as_large_as_the_corpus_is_the_corpus():
    chosen = sample(SHARDS, 5_000)
    assert {name: sorted(rows) for name, rows in chosen.items()} == {s["name"]: list(range(s["rows"])) for s in SHARDS}


def test_a_small_sample_leaves_no_language_out():
    assert {name[0] for name in sample(SHARDS, 1)} == {"e", "z"}


@pytest.mark.parametrize(("text", "words"), [("one two, three", 3), ("今天 OK 吗", 4), ("", 0), (None, 0), ("สวัสดี", 6)])
def test_words_are_counted_with_and_without_spaces(text, words):
    assert num_words(text) == words


def test_the_sample_speaks_for_all_rows():
    corpus = Manifest(key="k", num_rows=1010, rejected={"duplicate_id": 10}, shards=SHARDS, notices=[])
    counts = {"rows": 95, "accepted": 76, "reasons": {"silent": 19}, "audio_s": 76.0, "rejected_s": 19.0, "units": 1520}
    zh = {"rows": 5, "accepted": 5, "reasons": {}, "audio_s": 10.0, "rejected_s": 0.0, "units": 100}
    seen = {"by_language": {"en": counts, "zh": zh}, "words": {"en": 152, "zh": 0}}
    seen |= {"decode_s": 10.5, "encode_s": 105.0, "bytes": 860}
    found = project(corpus, {}, seen, on_gpu=False, prices=PricesSection(cpu_hour=2.0))
    assert found["rows"] == {
        "manifest": 1010,
        "sampled": 100,
        "accepted": 810,
        "rejected": 200,
        "reasons": {"duplicate_id": 10, "silent": 190},
    }
    assert found["hours"] == pytest.approx((760 + 100) / 3600)
    assert found["by_language"]["en"]["units_per_word"] == 10
    assert found["by_language"]["zh"]["units_per_word"] is None
    assert found["units_table_bytes"] == 8600
    assert found["cpu_hours"] == pytest.approx(1155 / 3600)
    assert found["cost"] == pytest.approx(2 * 1155 / 3600)
    on_gpu = project(corpus, {}, seen, on_gpu=True, prices=PricesSection(gpu_hour=1.0))
    assert on_gpu["cost"] == pytest.approx(on_gpu["gpu_hours"]) == pytest.approx(1050 / 3600)

"""Packed rows as Ray Data builds them: nothing lost, nothing twice, and the same whoever did the work."""

import pytest

from cslm import contracts, storage
from cslm.data import pack, sources
from cslm.errors import ConfigError
from cslm.lm import model as lm_model
from cslm.lm.model import ModelSection
from tests.data import tables

TASKS = ("asr", "tts", "mt", "text", "answer")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Small tables and a start model whose vocabulary has their units."""
    root = tmp_path_factory.mktemp("corpus")
    tables.write(root)
    lm_model.prepare(
        str(root / "start"),
        ModelSection(shape="micro", text_vocab_size=320),
        texts=lambda: tables.WORDS * 3,
        num_units=tables.NUM_UNITS,
        unit_tokenizer=tables.TOKENIZER.fingerprint,
        frame_rate_hz=50.0,
        codebook=lambda: tables.TOKENIZER.codebook,
        seed=0,
    )
    return root


def section(root, **changes):
    inputs = {name: str(root / name) for name in ("units", "parallel_text", "dialogues")}
    return sources.DataSection(**{**inputs, "row_length": 200, "chain": {"form": "full"}, **changes})


def build(root, name, tasks=TASKS, **changes):
    output = str(root / name)
    return pack.build(section(root, **changes), tasks, str(root / "start"), output, seed=0), output


def examples_of(output):
    table = contracts.load("packed").check(storage.read_table(output))
    return [
        pair for row in table.to_pylist() for pair in zip(row["segment_tasks"], row["segment_sources"], strict=True)
    ]


def test_every_example_of_the_split_lies_in_one_row(corpus, ray_cluster):
    stats, output = build(corpus, "all")
    found = examples_of(output)
    train = [number for number in range(120) if number % 10]
    expected = {(task, f"u{n}") for task in ("asr/en", "tts/en") for n in train} | {
        ("mt/en-es", f"p{n}") for n in train
    }
    expected |= {("answer/en-en" if n % 3 else "text/en-en", f"d{n}") for n in train}
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected
    assert sum(task["examples"] for task in stats["tasks"].values()) == len(expected)
    assert stats["efficiency"] > 0.9
    assert stats["set_aside"] == {}
    for row in storage.read_table(output).to_pylist():
        assert sum(row["segment_lengths"]) == len(row["input_ids"]) == len(row["loss_mask"]) <= 200


def test_the_rows_do_not_depend_on_how_the_work_was_shared(corpus, ray_cluster, monkeypatch):
    _, one = build(corpus, "together", ("asr", "mt"))
    monkeypatch.setattr(pack, "_CHUNK_ROWS", (7, 7))
    _, other = build(corpus, "apart", ("asr", "mt"))
    assert storage.read_table(one).equals(storage.read_table(other))


def test_rows_are_built_once(corpus, ray_cluster):
    _, output = build(corpus, "once", ("mt",))
    before = storage.listing_digest(output)
    build(corpus, "once", ("mt",))
    assert storage.listing_digest(output) == before
    build(corpus, "once", ("mt",), row_length=150)
    assert storage.listing_digest(output) != before


def test_weights_take_a_part_or_repeat(corpus, ray_cluster):
    weights = {"asr": 0.5, "mt": 2.0, "tts": 0.0}
    stats, _ = build(corpus, "weighted", ("asr", "mt", "tts"), weights=weights)
    assert set(stats["tasks"]) == {"asr/en", "mt/en-es"}
    assert stats["tasks"]["mt/en-es"]["examples"] == 2 * 108
    assert 30 < stats["tasks"]["asr/en"]["examples"] < 78


def test_what_does_not_fit_is_counted_not_cut(corpus, ray_cluster):
    _, whole = build(corpus, "long", ("asr",))
    rows = storage.read_table(whole).column("segment_lengths").to_pylist()
    lengths = sorted(length for row in rows for length in row)
    middle = lengths[len(lengths) // 2]
    stats, output = build(corpus, "short", ("asr",), row_length=middle)
    too_long = sum(length > middle for length in lengths)
    assert stats["set_aside"] == {"asr/en": {"too_long": too_long}}
    assert too_long > 0
    assert too_long + len(examples_of(output)) == 108


def test_rows_too_short_for_any_example_are_refused(corpus, ray_cluster):
    with pytest.raises(ConfigError, match="108 too_long of asr/en"):
        build(corpus, "shortest", ("asr",), row_length=20)


def test_tables_without_examples_are_refused(corpus, ray_cluster):
    with pytest.raises(ConfigError, match="found none"):
        build(corpus, "none", ("asr",), split="nothing")

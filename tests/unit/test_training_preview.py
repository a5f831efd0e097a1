"""What a preview shows: every token by what it is, what is learned also without colour, long units shortened."""

import io

import pytest
from rich.console import Console

from cslm.apps import training_preview
from cslm.data import sources
from cslm.errors import ConfigError
from cslm.lm import model as lm_model
from cslm.lm.examples import ExampleBuilder
from cslm.lm.model import ModelSection
from tests.data import tables

TASKS = ("asr", "tts", "mt", "text", "answer")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    tables.write(folder, num_utterances=40)
    return folder


@pytest.fixture(scope="module")
def joint(root):
    """Tokenizer and vocabulary as a job would make them, without a model."""
    return lm_model.reader(
        str(root / "start"),
        ModelSection(shape="micro", text_vocab_size=320),
        texts=lambda: tables.WORDS * 3,
        num_units=tables.NUM_UNITS,
        unit_tokenizer=tables.TOKENIZER.fingerprint,
        frame_rate_hz=50.0,
    )


def section(root, **changes):
    inputs = {name: str(root / name) for name in ("units", "parallel_text", "dialogues")}
    return sources.DataSection(**{**inputs, "row_length": 200, "chain": {"form": "full"}, **changes})


def shown(root, joint, number, *, terminal=False, tasks=TASKS, **changes):
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, color_system="standard" if terminal else None, soft_wrap=True, width=120
    )
    training_preview.show(console, section(root, **changes), tasks, *joint, number)
    return out.getvalue()


def test_the_first_few_are_of_as_many_tasks_as_there_are(root, joint):
    text = shown(root, joint, 5)
    assert [f"{place}. task {task}" in text for place, task in enumerate(TASKS, 1)] == [True] * 5
    assert "6. task" not in text
    assert (root / "start").exists() is False


def test_without_colour_brackets_stand_around_what_is_learned(root, joint):
    text = shown(root, joint, 1)
    assert "\x1b" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("<|begin_of_text|><|user|>")
    assert "<sosp><" in line.partition("⟦")[0]
    assert line.endswith("<|eot_id|>⟧")
    assert line.count("⟦") == line.count("⟧") == 1


def test_colours_tell_text_units_and_specials_apart_and_what_is_learned(root, joint):
    text = shown(root, joint, 1, terminal=True)
    assert "⟦" not in text
    for code in ("\x1b[2;36m<", "\x1b[2;35m<|begin_of_text|>", "\x1b[1;4;35m<|eot_id|>"):
        assert code in text


def test_long_stretches_of_units_are_shortened_and_counted(joint):
    builder = ExampleBuilder(*joint)
    row = {"id": "u", "language": "en", "text": "one", "units": list(range(40))}
    (example,) = builder.build("asr/en", row, {})
    text = training_preview.render(example, *joint, plain=True).plain
    assert "<sosp><0 1 2 3 4 5 ... 40 units ... 34 35 36 37 38 39><eosp>" in text
    (short,) = builder.build("asr/en", row | {"units": [3, 17, 9]}, {})
    assert "<sosp><3 17 9><eosp>" in training_preview.render(short, *joint, plain=True).plain


def test_tasks_without_weight_are_not_shown_and_none_at_all_is_refused(root, joint):
    text = shown(root, joint, 6, weights={"asr": 0, "tts": 0, "text": 0})
    assert "task asr" not in text
    assert "task mt" in text
    with pytest.raises(ConfigError, match="found none"):
        shown(root, joint, 1, tasks=("asr",), weights={"asr": 0})


def test_rows_that_give_no_example_are_told(root, joint):
    with pytest.raises(ConfigError, match="answer/en-en: too_long"):
        shown(root, joint, 1, tasks=("answer",), row_length=16)

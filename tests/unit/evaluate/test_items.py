import pytest

from cslm import contracts, storage
from cslm.errors import CheckpointError
from cslm.evaluate import asking, items
from cslm.evaluate.items import AmountSection, Item
from cslm.lm import vocabulary


@pytest.fixture(scope="module")
def utterances(evaluated):
    return items.utterances(str(evaluated / "units"), "test")


def test_utterances_are_heard_and_their_texts_spoken(utterances):
    found = items.of_utterances(utterances, AmountSection(max_utterances=5, max_spoken=3))
    assert [item.kind_of_task for item in found] == ["asr"] * 5 + ["tts"] * 3
    asr, tts = found[0], found[-1]
    assert (asr.task, asr.units is not None, asr.text) == ("asr/en", True, None)
    assert (tts.task, tts.units, tts.text) == ("tts/en", None, tts.reference)
    # Evenly over the table, not its beginning.
    assert [item.id for item in found[:5]] == ["u0", "u100", "u20", "u50", "u80"] or len({i.id for i in found[:5]}) == 5


def test_questions_are_those_that_are_spoken(evaluated):
    found = items.of_dialogues(str(evaluated / "dialogues"), str(evaluated / "units"), "test", AmountSection())
    assert {item.task for item in found} == {"answer/en-en"}
    assert len(found) == 8
    assert all(item.units and item.accepted and item.question for item in found)
    few = items.of_dialogues(
        str(evaluated / "dialogues"), str(evaluated / "units"), "test", AmountSection(max_questions=3)
    )
    assert len(few) == 3


def test_texts_are_translated_and_speech_where_it_is_spoken(evaluated, tmp_path):
    table = storage.read_table(str(evaluated / "parallel_text"))
    rows = [{**row, "source_audio": "u0" if number % 2 else None} for number, row in enumerate(table.to_pylist())]
    storage.write_table(contracts.load("parallel_text").table(rows), str(tmp_path / "part.parquet"))
    found = items.of_translations(str(tmp_path), str(evaluated / "units"), "test", AmountSection())
    assert {item.task for item in found} == {"mt/en-es"}
    rows = [{**row, "source_audio": "u0"} for row in rows]
    storage.write_table(contracts.load("parallel_text").table(rows), str(tmp_path / "part.parquet"))
    found = items.of_translations(str(tmp_path), str(evaluated / "units"), "test", AmountSection(max_translations=2))
    assert [item.kind_of_task for item in found] == ["mt"] * 2 + ["st"] * 12
    assert all(item.units and item.text is None for item in found if item.kind_of_task == "st")


def test_an_item_survives_being_told():
    item = Item(
        "d", "answer/en-es", "en", "es", "Cinco.", units=[1], earlier=({"role": "user", "text": "x"},),
        accepted=("Cinco.",),
        recording=("a.wav", None, 1.0),
    )  # fmt: skip
    assert Item.of(item.told()) == item


def test_what_was_said_before_is_asked_along_with_its_own_languages():
    earlier = (
        {"role": "user", "language": "en", "text": "Hi", "audio": "u1", "units": [1, 2]},
        {"role": "assistant", "language": "zh", "text": "你好", "audio": None, "units": None},
    )
    asked = asking.prompt(Item("d", "answer/en-es", "en", "es", "Cinco.", units=[3], earlier=earlier))
    assert [(turn.role, turn.language, turn.text, turn.units) for turn in asked.history] == [
        ("user", "zh", None, [1, 2]),
        ("assistant", "zh", "你好", None),
    ]
    assert (asked.task, asked.target_language, asked.units, asked.id) == ("answer", "es", [3], "d")
    assert asked.faults() == []


def test_units_of_another_tokenizer_are_refused(evaluated, utterances):
    layout = vocabulary.load(str(evaluated / "model"))
    items.require_same_units(utterances, layout, "data.units")
    other = utterances.set_column(
        utterances.column_names.index("tokenizer"), "tokenizer", [["f" * 16] * utterances.num_rows]
    )
    with pytest.raises(CheckpointError, match=r"data\.units"):
        items.require_same_units(other, layout, "data.units")


def test_the_first_few_of_each_task_are_samples():
    some = [Item(str(n), task, "en", "en", "x") for task in ("asr/en", "tts/en") for n in range(4)]
    marked = items.with_samples(some, 2)
    assert [item.is_sample for item in marked] == [True, True, False, False] * 2

import pytest

from cslm import contracts
from cslm.evaluate import asking, figures, scoring
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.evaluate.items import Item
from cslm.evaluate.language_id import Identifier

IDENTIFIER = Identifier(["en", "es", "zh"])
NO_INTERVALS = BootstrapSection(resamples=0)
ITEMS = [
    Item("u1", "asr/en", "en", "en", "Two plus three.", units=[1, 2], question_audio="u1"),
    Item("u1", "tts/en", "en", "en", "Two plus three.", text="Two plus three.", question="Two plus three."),
    Item("p1", "mt/en-es", "en", "es", "Dos más tres son cinco.", text="Two plus three is five.", question="Two."),
    Item("p1", "st/en-zh", "en", "zh", "二加三等于五。", units=[1], question="Two plus three is five."),
    Item(
        "d1", "answer/en-zh", "en", "zh", "五。", units=[1], question="Two plus three?", accepted=("五。", "等于五。")
    ),
    Item("d2", "answer/en-zh", "en", "zh", "六。", units=[1], question="Two plus four?", accepted=None),
]


def values(rows):
    predictions = scoring.judged(contracts.load("predictions").table(rows), IDENTIFIER)
    found = figures.figures(figures.table(scoring.scores(predictions, IDENTIFIER)), NO_INTERVALS)
    return figures.metrics(found)


def test_the_references_score_perfectly_in_everything():
    found = values(asking.references(ITEMS))
    perfect = {
        "cer": 0, "wer": 0, "silent": 0, "question_cer": 0, "asr_er": 0, "off_target": 0, "speech_off_target": 0,
        "accuracy": 1, "speech_accuracy": 1, "bleu": 100, "chrf": 100,
    }  # fmt: skip
    assert found == {name: pytest.approx(perfect[name.rpartition("/")[2]]) for name in found}
    assert {name.rpartition("/")[2] for name in found} == set(perfect)


def row(item, **given):
    return asking.references([item])[0] | given


def test_speech_is_judged_as_it_is_heard():
    found = values([row(ITEMS[1], units=[1], spoken="two plus tree", original="two plus free")])
    assert found["tts/en/wer"] == found["tts/en/original_wer"] == pytest.approx(1 / 3)


def test_an_answer_is_judged_in_text_and_in_speech():
    found = values([row(ITEMS[4], output="五", spoken="四", units=[3])])
    assert found["answer/en-zh/accuracy"] == 1
    assert found["answer/en-zh/speech_accuracy"] == 0
    assert found["answer/en-zh/asr_er"] == 1


def test_a_silent_answer_says_nothing_right():
    found = values([row(ITEMS[4], units=[], spoken="")])
    assert found["answer/en-zh/silent"] == 1
    assert found["answer/en-zh/speech_accuracy"] == 0
    assert found["answer/en-zh/asr_er"] == 1
    # Silence is in no language.
    assert "answer/en-zh/speech_off_target" not in found


def test_an_answer_in_another_language_is_off_target():
    found = values([row(ITEMS[4], output="Five is the answer.", spoken="五")])
    assert found["answer/en-zh/off_target"] == 1
    assert found["answer/en-zh/speech_off_target"] == 0
    assert found["answer/en-zh/accuracy"] == 0


def test_a_right_answer_is_on_target_though_it_looks_like_a_word_of_another_language():
    item = Item("d3", "answer/zh-en", "zh", "en", "No.", units=[1], question="是红色的吗？", accepted=("No.",))
    assert IDENTIFIER.identify("no") == "es"
    assert values([row(item, output="no")])["answer/zh-en/off_target"] == 0
    assert values([row(item, output="nada")])["answer/zh-en/off_target"] == 1


def test_an_answer_that_no_program_can_check_has_no_accuracy():
    found = values([row(ITEMS[5])])
    assert "answer/en-zh/accuracy" not in found
    assert found["answer/en-zh/off_target"] == 0


def test_without_speech_nothing_is_said_of_it():
    found = values([row(ITEMS[4], spoken=None)])
    assert not {name for name in found if "speech" in name or "asr_er" in name}


def test_grades_are_averaged():
    found = values([row(ITEMS[4], grade=4.0, spoken_grade=2.0), row(ITEMS[5], grade=5.0)])
    assert found["answer/en-zh/grade"] == pytest.approx(4.5)
    assert found["answer/en-zh/speech_grade"] == 2

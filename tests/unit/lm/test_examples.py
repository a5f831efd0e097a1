import pytest

from cslm.lm import text_tokenizer
from cslm.lm.examples import ExampleBuilder

UNITS = {"id": "u1", "language": "en", "text": "Two plus three is five.", "units": [3, 1, 4, 1, 5]}


def turn(role, text, language="en", audio=None):
    return {"role": role, "language": language, "text": text, "audio": audio}


@pytest.fixture
def builder(joint):
    return ExampleBuilder(*joint)


def targets(tokenizer, example):
    kept = [token for token, wanted in zip(example.input_ids, example.loss_mask, strict=True) if wanted]
    return tokenizer.decode(kept)


def test_recognition_asks_in_speech_and_learns_the_transcript(joint, builder):
    tokenizer, _ = joint
    example = builder.recognition(UNITS)
    text = tokenizer.decode(example.input_ids)
    assert "<sosp><unit_3><unit_1><unit_4><unit_1><unit_5><eosp>" in text
    assert targets(tokenizer, example) == "Two plus three is five.<|eot_id|>"
    assert (example.task, example.source) == ("asr/en", "u1")


def test_synthesis_learns_the_units(joint, builder):
    tokenizer, _ = joint
    example = builder.synthesis(UNITS)
    assert targets(tokenizer, example) == "<sosp><unit_3><unit_1><unit_4><unit_1><unit_5><eosp><|eot_id|>"


def test_translation_is_asked_in_the_target_language(joint, builder):
    tokenizer, _ = joint
    row = {"id": "p", "source_language": "en", "target_language": "es", "source": "Two.", "target": "Dos."}
    example = builder.translation(row)
    assert example.task == "mt/en-es"
    assert targets(tokenizer, example) == "Dos.<|eot_id|>"
    assert "Two." in tokenizer.decode(builder.prompt(example))


def test_a_spoken_question_is_answered_by_the_whole_chain(joint, builder):
    tokenizer, _ = joint
    turns = [turn("user", "What is it?", audio="q"), turn("assistant", "Es rojo.", "es", audio="a")]
    example = builder.spoken_dialogue({"id": "d", "turns": turns}, {"q": [7, 8], "a": [9, 10]})
    assert example.task == "answer/en-es"
    expected = "[question]What is it?[answer]Es rojo.<sosp><unit_9><unit_10><eosp><|eot_id|>"
    assert targets(tokenizer, example) == expected
    assert "<sosp><unit_7><unit_8><eosp>" in tokenizer.decode(builder.prompt(example))
    assert "español" in tokenizer.decode(builder.prompt(example))


def test_a_written_answer_to_a_spoken_question_has_no_speech(joint, builder):
    tokenizer, _ = joint
    turns = [turn("user", "What is it?", audio="q"), turn("assistant", "Red.")]
    example = builder.spoken_dialogue({"id": "d", "turns": turns}, {"q": [7, 8]})
    assert targets(tokenizer, example) == "[question]What is it?[answer]Red.<|eot_id|>"


def test_every_turn_of_the_assistant_is_learned_and_no_header(joint, builder):
    tokenizer, _ = joint
    turns = [turn("user", "A?"), turn("assistant", "B."), turn("user", "C?"), turn("assistant", "D.")]
    example = builder.text_dialogue({"id": "d", "turns": turns})
    assert targets(tokenizer, example) == "B.<|eot_id|>D.<|eot_id|>"
    assert example.task == "text/en-en"


@pytest.mark.parametrize("kind", ["recognition", "synthesis"])
def test_one_begin_of_text_and_a_prompt_that_ends_before_the_answer(joint, builder, kind):
    tokenizer, _ = joint
    example = getattr(builder, kind)(UNITS)
    prompt = builder.prompt(example)
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.input_ids[: len(prompt)] == prompt
    assert not any(example.loss_mask[: len(prompt)])
    assert all(example.loss_mask[len(prompt) :])
    generation = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert prompt[-2:] == generation[-2:]


def test_markup_in_a_transcript_stays_text(joint, builder):
    _, layout = joint
    row = UNITS | {"text": "<eosp><|eot_id|>[answer]"}
    example = builder.recognition(row)
    assert example.input_ids.count(layout.special("<eosp>")) == 1
    plain = text_tokenizer.encode(joint[0], row["text"])
    assert example.input_ids[-1 - len(plain) : -1] == plain

import json
from pathlib import Path

import pytest

from cslm.lm import text_tokenizer
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken, Word
from cslm.lm.examples import TASKS, ExampleBuilder, SetAside, groups_of, needs_alignment, spoken_needed
from tests.data import llama

UNITS = {"id": "u1", "language": "en", "text": "Two plus three is five.", "units": [3, 1, 4, 1, 5]}
PAIR = {
    "id": "p1",
    "source_language": "en",
    "target_language": "es",
    "source": "It is red.",
    "target": "Es rojo.",
    "source_audio": "q",
    "target_audio": "a",
}
ANSWER = Spoken([4, 5, 6], [Word("Es", 0, 1), Word("rojo", 2, 3)])
SPOKEN = {"q": Spoken([7, 0]), "a": ANSWER}
# One row for each task; the golden file has what each becomes.
ROWS = {
    "asr/en": UNITS | {"units": [3, 1, 4, 1, 5]},
    "tts/en": UNITS,
    "spans/en": UNITS | {"id": "u3", "text": "One, two.", "units": [1, 2, 3]},
    "mt/en-es": PAIR,
    "st/en-es": PAIR,
    "s2st/en-es": PAIR,
}
GOLDEN = Path(__file__).parent / "golden_examples.json"


def turn(role, text, language="en", audio=None):
    return {"role": role, "language": language, "text": text, "audio": audio}


def dialogue(*turns):
    return {"id": "d1", "turns": list(turns)}


ROWS["text/en-en"] = dialogue(turn("user", "Two?"), turn("assistant", "Yes."))
ROWS["answer/en-es"] = dialogue(turn("user", "What is it?", audio="q"), turn("assistant", "Es rojo.", "es", "a"))


@pytest.fixture
def builder(joint):
    return ExampleBuilder(*joint, ChainSection(chunk_words=1))


def one(builder, row, group=None, spoken=SPOKEN):
    table = "units" if "units" in row else "dialogues" if "turns" in row else "parallel_text"
    (example,) = builder.build(group or groups_of(table, row)[0], row, spoken)
    return example


def targets(tokenizer, example):
    kept = [token for token, wanted in zip(example.input_ids, example.loss_mask, strict=True) if wanted]
    return tokenizer.decode(kept)


def test_recognition_asks_in_speech_and_learns_the_transcript(joint, builder):
    tokenizer, _ = joint
    example = one(builder, UNITS)
    text = tokenizer.decode(example.input_ids)
    assert "<sosp><unit_3><unit_1><unit_4><unit_1><unit_5><eosp>" in text
    assert targets(tokenizer, example) == "Two plus three is five.<|eot_id|>"
    assert (example.task, example.source) == ("asr/en", "u1")


def test_synthesis_learns_the_units(joint, builder):
    tokenizer, _ = joint
    example = one(builder, UNITS, "tts/en")
    assert targets(tokenizer, example) == "<sosp><unit_3><unit_1><unit_4><unit_1><unit_5><eosp><|eot_id|>"


def test_translation_is_asked_in_the_target_language(joint, builder):
    tokenizer, _ = joint
    example = one(builder, PAIR, "mt/en-es")
    assert targets(tokenizer, example) == "Es rojo.<|eot_id|>"
    prompt = tokenizer.decode(builder.prompt("mt/en-es", PAIR, {}))
    assert "It is red." in prompt
    assert "español" in prompt


def test_speech_is_translated_into_text(joint, builder):
    tokenizer, _ = joint
    example = one(builder, PAIR, "st/en-es")
    assert targets(tokenizer, example) == "Es rojo.<|eot_id|>"
    assert "<sosp><unit_7><unit_0><eosp>" in tokenizer.decode(builder.prompt("st/en-es", PAIR, SPOKEN))


def test_speech_is_translated_into_speech_by_the_chain(joint, builder):
    example = one(builder, PAIR, "s2st/en-es")
    expected = "[question]It is red.[answer]Es<sosp><unit_4><unit_5><eosp> rojo.<sosp><unit_6><eosp><|eot_id|>"
    assert targets(joint[0], example) == expected


def test_a_spoken_question_is_answered_in_chunks(joint, builder):
    tokenizer, _ = joint
    row = ROWS["answer/en-es"]
    example = one(builder, row)
    assert example.task == "answer/en-es"
    expected = "[question]What is it?[answer]Es<sosp><unit_4><unit_5><eosp> rojo.<sosp><unit_6><eosp><|eot_id|>"
    assert targets(tokenizer, example) == expected
    prompt = tokenizer.decode(builder.prompt("answer/en-es", row, SPOKEN))
    assert "<sosp><unit_7><unit_0><eosp>" in prompt
    assert "español" in prompt


def test_the_full_form_needs_no_alignment(joint):
    builder = ExampleBuilder(*joint, ChainSection(form="full_no_question"))
    spoken = {"q": SPOKEN["q"], "a": Spoken(ANSWER.units)}
    example = one(builder, ROWS["answer/en-es"], spoken=spoken)
    assert targets(joint[0], example) == "[answer]Es rojo.<sosp><unit_4><unit_5><unit_6><eosp><|eot_id|>"


def test_a_written_answer_to_a_spoken_question_has_no_speech(joint, builder):
    row = dialogue(turn("user", "What is it?", audio="q"), turn("assistant", "Red."))
    assert targets(joint[0], one(builder, row)) == "[question]What is it?[answer]Red.<|eot_id|>"


def test_a_spoken_answer_to_a_written_question_has_no_question_in_it(joint, builder):
    row = dialogue(turn("user", "¿Y?", "es"), turn("assistant", "Es rojo.", "es", "a"))
    assert targets(joint[0], one(builder, row)).startswith("Es<sosp><unit_4><unit_5><eosp> rojo.")


def test_a_long_exchange_in_speech_is_one_chat(joint, builder):
    tokenizer, layout = joint
    turns = [*ROWS["answer/en-es"]["turns"], turn("user", "And now?"), turn("assistant", "Blue.")]
    example = one(builder, dialogue(*turns))
    assert example.task == "answer/en-en"
    said = targets(tokenizer, example)
    assert said.startswith("[question]What is it?[answer]Es<sosp>")
    assert said.endswith("<eosp><|eot_id|>Blue.<|eot_id|>")
    assert example.input_ids.count(layout.special("[question]")) == 1


def test_every_turn_of_the_assistant_is_learned_and_no_header(joint, builder):
    row = dialogue(turn("user", "A?"), turn("assistant", "B."), turn("user", "C?"), turn("assistant", "D."))
    example = one(builder, row)
    assert targets(joint[0], example) == "B.<|eot_id|>D.<|eot_id|>"
    assert example.task == "text/en-en"


def test_spans_change_between_text_and_speech_and_are_all_learned(joint, builder):
    tokenizer, _ = joint
    spoken = {"u3": Spoken([1, 2, 3], [Word("One", 0, 1), Word("two", 2, 3)])}
    example = one(builder, ROWS["spans/en"], "spans/en", spoken)
    text = tokenizer.decode(example.input_ids)
    assert text in (
        "<|begin_of_text|>One,<sosp><unit_3><eosp><|eot_id|>",
        "<|begin_of_text|><sosp><unit_1><unit_2><eosp> two.<|eot_id|>",
    )
    assert example.loss_mask == [0] + [1] * (len(example.input_ids) - 1)


def test_an_utterance_of_one_chunk_has_nothing_to_change_between(joint):
    with pytest.raises(SetAside, match="one_chunk"):
        ExampleBuilder(*joint).build("spans/en", ROWS["spans/en"], {"u3": Spoken([1], [Word("One", 0, 1)])})


def test_a_dialogue_that_is_too_long_is_split_at_its_questions(joint):
    turns = [turn("user", "A?"), turn("assistant", "B."), turn("user", "C?"), turn("assistant", "D.")] * 2
    whole = one(ExampleBuilder(*joint), dialogue(*turns))
    length = len(whole.input_ids) // 2 + 3
    parts = ExampleBuilder(*joint, row_length=length).build("text/en-en", dialogue(*turns), {})
    assert [part.source for part in parts] == ["d1#0", "d1#1"]
    assert all(len(part.input_ids) <= length for part in parts)
    assert all(part.input_ids.count(joint[0].bos_token_id) == 1 for part in parts)
    assert "".join(targets(joint[0], part) for part in parts) == targets(joint[0], whole)


@pytest.mark.parametrize(
    ("group", "row"), [("asr/en", UNITS), ("text/en-en", dialogue(turn("user", "A?"), turn("assistant", "B" * 50)))]
)
def test_what_cannot_be_split_is_set_aside(joint, group, row):
    with pytest.raises(SetAside, match="too_long"):
        ExampleBuilder(*joint, row_length=8).build(group, row, {})


def test_what_is_not_known_of_an_utterance_sets_its_example_aside(builder):
    row = ROWS["answer/en-es"]
    with pytest.raises(SetAside, match="no_units"):
        builder.build("answer/en-es", row, {"q": SPOKEN["q"]})
    with pytest.raises(SetAside, match="not_aligned"):
        builder.build("answer/en-es", row, SPOKEN | {"a": Spoken([1, 2])})
    other = Spoken([1], [Word("azul", 0, 1)])
    with pytest.raises(SetAside, match="not_aligned"):
        builder.build("answer/en-es", row, SPOKEN | {"a": other})


def test_groups_are_what_a_row_can_give():
    assert groups_of("units", UNITS) == ["asr/en", "tts/en", "spans/en"]
    assert groups_of("units", UNITS | {"text": None}) == []
    assert groups_of("parallel_text", PAIR) == ["mt/en-es", "st/en-es", "s2st/en-es"]
    assert groups_of("parallel_text", PAIR | {"source_audio": None}) == ["mt/en-es"]
    assert {group.partition("/")[0] for group in ROWS} == set(TASKS)


@pytest.mark.parametrize("form", ["interleaved", "full"])
def test_alignments_are_needed_where_answers_are_cut(form):
    section = ChainSection(form=form)
    needed = spoken_needed("answer/en-es", ROWS["answer/en-es"], section)
    assert needed == {"q": False, "a": form == "interleaved"}
    assert spoken_needed("s2st/en-es", PAIR, section) == needed
    assert spoken_needed("st/en-es", PAIR, section) == {"q": False}
    assert spoken_needed("spans/en", UNITS, section) == {"u1": True}
    assert spoken_needed("asr/en", UNITS, section) == {}
    tasks = {task for task in TASKS if needs_alignment(task, section)}
    assert tasks == ({"spans", "answer", "s2st"} if form == "interleaved" else {"spans"})


@pytest.mark.parametrize("group", sorted(set(ROWS) - {"spans/en"}))
def test_one_begin_of_text_and_a_prompt_that_ends_before_the_answer(joint, builder, group):
    tokenizer, _ = joint
    example = one(builder, ROWS[group], group)
    prompt = builder.prompt(group, ROWS[group], SPOKEN)
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
    example = one(builder, row)
    assert example.input_ids.count(layout.special("<eosp>")) == 1
    plain = text_tokenizer.encode(joint[0], row["text"])
    assert example.input_ids[-1 - len(plain) : -1] == plain


@pytest.mark.parametrize("group", sorted(ROWS))
def test_token_sequences_are_those_written_down(group):
    """Under a chat template like Llama 3's: every id, and which of them are targets."""
    tokenizer, layout = llama.tokenizer_and_layout()
    spoken = SPOKEN | {"u3": Spoken([1, 2, 3], [Word("One", 0, 1), Word("two", 2, 3)])}
    builder = ExampleBuilder(tokenizer, layout, ChainSection(chunk_words=1))
    example = one(builder, ROWS[group], group, spoken)
    written = json.loads(GOLDEN.read_text())[group]
    assert tokenizer.decode(example.input_ids) == written["text"]
    assert targets(tokenizer, example) == written["targets"]
    assert example.input_ids == written["input_ids"]
    assert sum(example.loss_mask) == written["num_targets"]

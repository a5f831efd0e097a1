import numpy as np
import pytest

from cslm.errors import CheckpointError, ConfigError
from cslm.lm import chain, text_tokenizer, vocabulary
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken
from cslm.lm.examples import ExampleBuilder
from cslm.lm.generate import EndEvent, Generator, Prompt, QuestionEvent, Sampling, SpeechEvent, TextEvent, Turn
from tests.data import answering

GREEDY = Sampling(temperature=0, max_new_tokens=60, max_text_tokens=9, max_speech_units=15)
DRAWN = GREEDY.model_copy(update={"temperature": 1.0})
PROMPTS = [
    Prompt("asr", "en", units=[1, 2, 3]),
    Prompt("tts", "zh", text="二加三等于五。"),
    Prompt("mt", "en", "es", text="It is red."),
    Prompt("st", "en", "es", units=[4, 5, 6, 7, 8, 9]),
    Prompt("s2st", "en", "zh", units=[4, 5]),
    Prompt("text", "en", text="What is it?"),
    Prompt("answer", "en", "zh", units=list(range(20)), id="some"),
    Prompt("s2s", "en", units=[3, 2, 1]),
    Prompt("answer", "en", text="What is it?"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return answering.model_folder(tmp_path_factory.mktemp("random") / "model")


@pytest.fixture(scope="module")
def generator(folder):
    return Generator.load(folder)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_what_a_prompt_gets_does_not_depend_on_its_batch(generator, sampling):
    together = generator.generate(PROMPTS, sampling)
    alone = [generator.generate([prompt], sampling)[0] for prompt in PROMPTS]
    small = generator.generate(PROMPTS[::-1], sampling, batch_size=2)[::-1]
    assert [one.ids for one in together] == [one.ids for one in alone] == [one.ids for one in small]


def test_nothing_asked_is_nothing_answered(generator):
    assert generator.generate([], GREEDY) == []


def test_each_task_gives_what_it_is_for(generator):
    responses = dict(zip([prompt.task for prompt in PROMPTS], generator.generate(PROMPTS, DRAWN), strict=True))
    for task in ("asr", "mt", "st", "text"):
        assert [kind for kind, _ in responses[task].spans] == ["text"]
        assert responses[task].units == []
    assert [kind for kind, _ in responses["tts"].spans] == ["speech"]
    assert responses["s2s"].units
    assert responses["s2s"].times.first_text_s is not None
    assert responses["s2s"].times.first_speech_s <= responses["s2s"].times.end_s
    assert responses["tts"].times.first_text_s is None


def test_prompts_are_those_of_training(generator, folder):
    tokenizer, layout = text_tokenizer.load(folder), vocabulary.load(folder)
    builder = ExampleBuilder(tokenizer, layout)
    row = {"id": "some", "language": "en", "text": "It is red.", "units": [1, 2, 3]}
    for task in ("asr", "tts"):
        example = builder.build(f"{task}/en", row, {})[0]
        prompt = Prompt(task, "en", text=row["text"], units=row["units"], id="some")
        ids = generator.prompt_ids(prompt)
        assert example.input_ids[: len(ids)] == ids
        assert example.loss_mask == [0] * len(ids) + [1] * (len(example.input_ids) - len(ids))
    turns = [
        {"role": "user", "language": "en", "text": "What is it?", "audio": "asked"},
        {"role": "assistant", "language": "zh", "text": "五", "audio": "said"},
        {"role": "user", "language": "en", "text": "Is it red?", "audio": "again"},
        {"role": "assistant", "language": "zh", "text": "三", "audio": None},
    ]
    spoken = {"asked": Spoken([1, 2]), "said": Spoken([3, 4]), "again": Spoken([5, 6])}
    section = ChainSection(form="full")
    example = ExampleBuilder(tokenizer, layout, section).build("answer/en-zh", {"id": "some", "turns": turns}, spoken)[
        0
    ]
    encode = lambda text: text_tokenizer.encode(tokenizer, text)  # noqa: E731
    said = chain.with_question(
        "What is it?", chain.answer("五", spoken["said"], section, encode, layout), section, encode, layout
    )
    history = (Turn("user", "zh", units=[1, 2]), Turn("assistant", "zh", ids=said))
    ids = generator.prompt_ids(Prompt("answer", "en", "zh", units=[5, 6], history=history, id="some"))
    assert example.input_ids[: len(ids)] == ids


def test_history_grows_by_what_was_asked_and_said(generator):
    first = Prompt("answer", "en", units=[1, 2, 3])
    response = generator.generate([first], DRAWN)[0]
    second = Prompt("answer", "en", units=[4, 5], history=response.after(first))
    before, ids = generator.prompt_ids(first), generator.prompt_ids(second)
    assert ids[: len(before) + len(response.ids)] == before + response.ids
    third = Prompt("text", "en", text="What is it?", history=response.after(second))
    assert [turn.role for turn in third.history] == ["user", "assistant"] * 2


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.task)
def test_a_stream_tells_the_same_as_the_batch_and_in_order(generator, prompt):
    *events, last = generator.stream(prompt, DRAWN, units_an_event=4)
    response = generator.generate([prompt], DRAWN)[0]
    assert isinstance(last, EndEvent)
    assert last.response.ids == response.ids
    assert "".join(event.text for event in events if isinstance(event, TextEvent)).strip() == response.text
    told = [event.units for event in events if isinstance(event, SpeechEvent)]
    assert [unit for units in told for unit in units] == response.units
    assert all(1 <= len(units) <= 4 for units in told)
    questions = [event.text for event in events if isinstance(event, QuestionEvent)]
    assert questions == ([] if response.question is None else [response.question])
    kinds = ["speech" if isinstance(event, SpeechEvent) else "text" for event in events if event not in questions]
    order = [kind for number, kind in enumerate(kinds) if number == 0 or kinds[number - 1] != kind]
    expected = [kind for kind, _ in response.spans]
    assert order[-len(expected) :] == expected


def test_letters_of_several_tokens_are_told_whole(generator):
    # Bytes of one letter are tokens of their own in so small a vocabulary.
    for seed in range(5):
        *events, last = generator.stream(PROMPTS[5], DRAWN.model_copy(update={"seed": seed}))
        assert "".join(event.text for event in events).strip() == last.response.text


def test_a_limit_closes_the_output_and_is_told(generator):
    sampling = Sampling(temperature=0, max_new_tokens=12, max_text_tokens=3, max_speech_units=3)
    for prompt in PROMPTS:
        response = generator.generate([prompt], sampling)[0]
        assert len(response.ids) < 12
        assert response.units or prompt.task not in ("tts", "answer", "s2s", "s2st")
    assert generator.generate([PROMPTS[1]], sampling)[0].stop == "length"


def test_the_form_that_a_model_was_taught_is_kept(folder, tmp_path):
    import shutil

    taught = tmp_path / "model"
    shutil.copytree(folder, taught)
    chain.record(ChainSection(form="full_no_question"), str(taught))
    generator = Generator.load(str(taught))
    response = generator.generate([PROMPTS[7]], DRAWN)[0]
    assert response.question is None
    assert [kind for kind, _ in response.spans] == ["text", "speech"]
    asked = generator.generate([PROMPTS[7]], DRAWN.model_copy(update={"form": "interleaved"}))[0]
    assert asked.question is not None


def test_answers_may_go_without_speech(generator):
    response = generator.generate([PROMPTS[7]], DRAWN.model_copy(update={"spoken": "never"}))[0]
    assert response.units == []
    assert response.text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt("sing", "en", text="la"), "task: must be one of asr, tts, .* found 'sing'"),
        (Prompt("asr", "en", text="It"), "units: the task asr needs units, found none"),
        (Prompt("mt", "en", text="It"), "answer_language: the task mt needs it"),
        (Prompt("asr", "en", units=[1], history=(Turn("user", "en", "It"),)), "history: only the tasks text, answer"),
        (Prompt("answer", "tlh", units=[1]), "no prompts for the language tlh"),
        (Prompt("asr", "en", units=[1] * 300), "must leave room for an answer of 2 tokens in the model's 256, found 3"),
    ],
    ids=lambda value: value.task if isinstance(value, Prompt) else "",
)
def test_what_cannot_be_asked_is_told(generator, prompt, expected):
    with pytest.raises(ConfigError, match=expected):
        generator.generate([prompt], GREEDY)


def test_units_of_another_codebook_are_refused(generator):
    with pytest.raises(CheckpointError, match=r"units must lie in 0\.\.19"):
        generator.generate([Prompt("asr", "en", units=[20])], GREEDY)


def test_a_folder_without_speech_units_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must hold cslm_vocabulary"):
        Generator.load(str(tmp_path))


def test_a_spoken_prompt_as_text_with_names_of_units_is_read_back_to_the_same_ids(folder, generator):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for prompt in (prompt for prompt in PROMPTS if prompt.is_spoken):
        text = generator.markup(prompt)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == generator.prompt_ids(prompt)
    assert "<sosp><unit_1><unit_2><unit_3><eosp>" in generator.markup(PROMPTS[0])


def test_the_folder_alone_is_all_that_a_server_needs(folder, generator):
    """Architecture, tokenizer, chat template, weights and the ids to stop at, by the plain classes of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert config.architectures == [type(model).__name__] == ["LlamaForCausalLM"]
    assert config.vocab_size == generator.layout.num_rows >= len(tokenizer)
    stops = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    chat = [{"role": "user", "content": "What is it?"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert ids == generator.prompt_ids(Prompt("text", "en", text="What is it?"))
    ended = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": "It is red."}], tokenize=False)
    assert tokenizer(ended, add_special_tokens=False)["input_ids"][-1] in stops


def test_units_may_be_an_array(generator):
    plain = generator.generate([PROMPTS[0]], GREEDY)[0]
    array = generator.generate([Prompt("asr", "en", units=np.array([1, 2, 3], np.uint16))], GREEDY)[0]
    assert plain.ids == array.ids

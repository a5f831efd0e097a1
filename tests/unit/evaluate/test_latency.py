import itertools

import pytest

from cslm.evaluate import figures, latency
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.evaluate.items import Item
from cslm.evaluate.latency import LatencySection
from cslm.lm.chunks import Spoken, Word
from cslm.lm.generate import EndEvent, Generator, Prompt, Sampling
from cslm.lm.vocabulary import ANSWER, QUESTION

ANSWER_TEXT = "one two three four five red blue green"
SPOKEN = Spoken(list(range(40)))


def test_both_forms_say_the_same_and_the_interleaved_one_speaks_sooner(network):
    ids = {
        form: latency.written(network, "dog", ANSWER_TEXT, SPOKEN, "en", form, 2) for form in ("interleaved", "full")
    }
    units = {form: network.layout.units(one).tolist() for form, one in ids.items()}
    assert units["interleaved"] == units["full"] == list(range(40))
    for one in ids.values():
        assert one[0] == network.layout.special(QUESTION)
        assert network.layout.special(ANSWER) in one
    first = {form: latency._first_speech(one, network.layout, 3) for form, one in ids.items()}
    assert first["interleaved"][1] == first["full"][1] == [0, 1, 2]
    assert first["interleaved"][0] < first["full"][0]


def test_times_of_a_written_answer_follow_each_other(network):
    ids = latency.written(network, "dog", ANSWER_TEXT, SPOKEN, "en", "full", 7)
    times = latency.forced(network, network.text_ids("cat"), ids)
    assert len(times) == len(ids)
    assert all(one < other for one, other in itertools.pairwise(times))


def test_each_question_is_timed_once_and_warming_up_is_not_counted(network):
    case = {
        "task": "answer/en-en", "prompt": network.text_ids("cat"), "question": "dog", "language": "en",
        "answer": ANSWER_TEXT, "answer_speech": (SPOKEN.units, None),
    }  # fmt: skip
    spoken = []

    def speak(units):
        spoken.append(list(units))
        return [], 16_000

    scores = latency.scores(
        network, speak, [{**case, "id": "a"}, {**case, "id": "b"}], LatencySection(warm_up=1, repeats=2)
    )
    found = figures.figures(figures.table(scores), BootstrapSection(resamples=0))
    assert {figure.metric: figure.num_items for figure in found} == {
        "interleaved_first_speech_s": 2, "full_first_speech_s": 2, "full_over_interleaved": 2,
    }  # fmt: skip
    assert spoken == [list(range(10))] * (2 + 2 * 2 * 2)
    assert all(figure.value > 0 for figure in found)


def test_an_answer_is_timed_as_it_streams(evaluated, network):
    generator = Generator(network.model, str(evaluated / "model"))
    events = generator.stream(Prompt("tts", "en", text="one"), Sampling(temperature=0, max_new_tokens=12))
    scores = latency.streamed("tts/en", "a", events, None, 50.0)
    by_metric = {score["metric"]: score["statistics"] for score in scores}
    assert set(by_metric) == {"first_speech_s", "real_time_factor"}
    seconds, speech_s = by_metric["real_time_factor"]
    assert seconds >= by_metric["first_speech_s"][0] > 0
    assert (speech_s * 50) % 1 == pytest.approx(0, abs=1e-6)


def test_a_silent_answer_has_no_times_of_speech():
    response = type("Response", (), {"units": []})()
    assert latency.streamed("answer/en-en", "a", [EndEvent(response)], None, 50.0) == []


def test_short_answers_are_joined_with_their_words_where_they_are():
    one = ("one two", Spoken([1, 2], [Word("one", 0, 1), Word("two", 1, 2)]))
    other = ("red", Spoken([3], [Word("red", 0, 1)]))
    text, spoken = latency.joined([one, other])
    assert text == "one two red"
    assert list(spoken.units) == [1, 2, 3]
    assert spoken.words == [Word("one", 0, 1), Word("two", 1, 2), Word("red", 2, 3)]
    assert latency.joined([one, ("blue", Spoken([4]))])[1].words is None


def test_answers_are_joined_until_they_have_the_words_asked_for(evaluated):
    some = [
        Item(f"d{n}", "answer/en-en", "en", "en", "one two", units=[1], reference_audio=f"u{n}", question="dog")
        for n in range(3)
    ]
    units = str(evaluated / "units" / "units")
    [case] = latency.cases(some, units, None, LatencySection(max_questions=1, answer_words=5))
    assert case["answer"] == "one two one two one two"
    found = latency.cases(some, units, None, LatencySection(max_questions=2, answer_words=0))
    assert [(one["id"] if "id" in one else one["item"]["id"], one["answer"]) for one in found] == [
        ("d0", "one two"), ("d1", "one two"),
    ]  # fmt: skip
    assert latency.cases(some, units, None, LatencySection(max_questions=0)) == []

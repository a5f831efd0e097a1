import numpy as np
import pytest
import soundfile

from cslm.errors import ConfigError
from cslm.evaluate import asking, hearing
from cslm.evaluate.asking import Examiner
from cslm.evaluate.items import Item
from cslm.lm.generate import Generator, Sampling
from cslm.speech import decoder
from tests.data import untrained

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24, spoken="always")
ITEMS = [
    Item("u1", "asr/en", "en", "en", "one two", units=[1, 2, 3], is_sample=True),
    Item("u2", "tts/en", "en", "en", "one two", text="one two", is_sample=True),
    Item("d1", "answer/en-en", "en", "en", "one", units=[4, 5], question="one two", accepted=("one",), is_sample=True),
    Item("d2", "answer/en-en", "en", "en", "one", units=[6, 7], question="two", accepted=("one",)),
]


@pytest.fixture(scope="module")
def generator(network, evaluated):
    return Generator(network.model, str(evaluated / "model"))


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voice")
    untrained.write_voice(folder / "voice")
    untrained.write_listener(folder / "listener")
    speaks = decoder.load(str(folder / "voice"))
    return lambda units: (speaks.speak(list(units)), speaks.sample_rate_hz), hearing.load(
        str(folder / "listener"), "cpu"
    )


def test_answers_are_recorded_and_speech_is_heard(generator, voice, tmp_path):
    speak, listener = voice
    rows = Examiner(generator, SAMPLING, speak, listener, str(tmp_path))(ITEMS)
    assert [row["id"] for row in rows] == ["u1", "u2", "d1", "d2"]
    asr, tts, answer, other = rows
    assert asr["units"] is asr["spoken"] is None
    assert tts["output"] == ""
    for row in (tts, answer, other):
        assert row["units"]
        assert row["speech_s"] > 0
        assert isinstance(row["spoken"], str)
    assert isinstance(answer["heard"], str)
    # The samples are those that are marked, and they are what was heard.
    assert [row.get("sample") is not None for row in rows] == [False, True, True, False]
    samples, rate_hz = soundfile.read(tmp_path / tts["sample"])
    assert len(samples) / rate_hz == pytest.approx(tts["speech_s"])


def test_what_is_given_does_not_depend_on_what_else_is_asked(generator, tmp_path):
    likeliest = SAMPLING.model_copy(update={"temperature": 0.0})
    examiner = Examiner(generator, likeliest, None, None, str(tmp_path))
    together = examiner(ITEMS)
    assert [examiner([item])[0] for item in ITEMS] == together
    assert all(row["spoken"] is None for row in together)


def test_what_is_too_long_to_be_asked_has_no_answer(generator, voice, tmp_path):
    long = Item("u9", "asr/en", "en", "en", "one", units=[1, 2] * 300)
    speaking = Item("d9", "answer/en-en", "en", "en", "one", units=[1, 2] * 300, question="one")
    rows = Examiner(generator, SAMPLING, *voice, str(tmp_path))([long, ITEMS[1], speaking])
    assert [row["stop"] == "too_long" for row in rows] == [True, False, True]
    assert (rows[0]["output"], rows[2]["units"], rows[2]["spoken"]) == ("", [], "")


def test_a_language_without_prompts_is_an_error(generator, tmp_path):
    with pytest.raises(ConfigError, match="no prompts for the language tlh"):
        Examiner(generator, SAMPLING, None, None, str(tmp_path))([Item("u1", "asr/tlh", "tlh", "tlh", "x", units=[1])])


def test_recordings_of_references_are_heard_where_they_can_be_read(generator, voice, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=22_050) * 0.1, 22_050)
    there = Item("u1", "tts/en", "en", "en", "one", text="one", recording=(str(tmp_path / "a.wav"), None, None))
    gone = Item("u2", "tts/en", "en", "en", "one", text="one", recording=(str(tmp_path / "b.wav"), None, None))
    rows = Examiner(generator, SAMPLING, *voice, str(tmp_path))([there, gone])
    assert isinstance(rows[0]["original"], str)
    assert rows[1]["original"] is None
    assert len(asking.recorded(str(tmp_path / "a.wav"), 0.25, 0.75)) == pytest.approx(8000, abs=2)


def test_samples_are_written_under_safe_names(generator, voice, tmp_path):
    item = Item("../../x/y", "tts/en", "en", "en", "one", text="one", is_sample=True)
    [row] = Examiner(generator, SAMPLING, *voice, str(tmp_path))([item])
    assert (tmp_path / row["sample"]).resolve().is_relative_to(tmp_path / "samples" / "tts-en")

import io
import sys

import numpy as np
import pytest
import soundfile

from cslm import talk
from cslm.speech import tokenizer as speech
from tests.data import aligning, answering, any_voice, sounds

SHORT = ["--max_new_tokens", "60", "--seed", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model that says anything, with the ears and the voice for its units, and recordings."""
    root = tmp_path_factory.mktemp("talk")
    described = speech.describe(str(aligning.learned_folder(root / "tokenizer")))
    facts = {"num_units": described["codebook_size"], "tokenizer": described["fingerprint"]}
    answering.model_folder(root / "model", **facts)
    any_voice.decoder_folder(root / "decoder", facts["tokenizer"], facts["num_units"])
    sounds.write(root / "question.wav", 1)
    return root


def run(root, *arguments, voice=True):
    folders = ["--tokenizer", str(root / "tokenizer"), *(["--decoder", str(root / "decoder")] if voice else [])]
    return talk.main([str(root / "model"), *map(str, arguments), *folders, *SHORT])


def test_a_spoken_question_is_answered_in_text_and_sound_while_the_model_goes_on(root, tmp_path, capsys):
    played = tmp_path / "played.pcm"
    arguments = ["--output", tmp_path / "answer.wav", "--play", f"dd of={played} status=none"]
    assert run(root, root / "question.wav", *arguments) == 0
    told = capsys.readouterr()
    assert told.out.startswith("(heard: ")
    assert "first text after" in told.err
    assert "first speech after" in told.err
    assert "real-time factor" in told.err
    samples, rate_hz = soundfile.read(tmp_path / "answer.wav", dtype="int16")
    assert rate_hz == 16_000
    heard = np.frombuffer(played.read_bytes(), "<i2")
    assert len(heard) == len(samples) > 0
    assert np.abs(heard.astype(int) - samples).max() <= 2


def test_turns_are_remembered_until_they_are_forgotten(root, capsys, monkeypatch):
    asked = []
    stream = talk.Generator.stream
    monkeypatch.setattr(
        talk.Generator, "stream", lambda self, prompt, *rest: asked.append(prompt) or stream(self, prompt, *rest)
    )
    lines = ["What is it?", str(root / "question.wav"), "gone.wav", "/new", "Is it red?", "/quit", "never"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert run(root, voice=False) == 0
    assert [prompt.task for prompt in asked] == ["text", "answer", "text"]
    assert [len(prompt.history) for prompt in asked] == [0, 2, 0]
    assert "gone.wav" in capsys.readouterr().err


def test_what_was_said_first_is_forgotten_when_there_is_no_more_room(root, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is it? It is red.\n" * 12))
    assert run(root, voice=False) == 0
    assert capsys.readouterr().err.count("first text after") == 12


def test_several_questions_have_files_of_their_own(root, tmp_path):
    assert run(root, root / "question.wav", root / "question.wav", "--output", tmp_path / "answer.wav") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer-1.wav", "answer-2.wav"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--top_p", "3"], "--top_p: Input should be less than or equal to 1, found 3.0"),
        (["--speaker", "nobody"], "must be one of the 2 voices ann, bob, found 'nobody'"),
        (["--play", "no-such-player"], "must be a command that can be run"),
        (["--task", "mt"], "units and text"),
    ],
)
def test_what_cannot_be_used_is_told(root, capsys, arguments, expected):
    if "mt" in arguments:
        assert run(root, root / "question.wav", *arguments) == 2
        assert "the task mt needs text" in capsys.readouterr().err
        return
    assert run(root, root / "question.wav", *arguments) == 2
    assert expected in capsys.readouterr().err


def test_ears_and_voice_of_other_units_are_refused(root, tmp_path, capsys):
    other = answering.model_folder(tmp_path / "model", num_units=8)
    ears, voice = str(root / "tokenizer"), str(root / "decoder")
    assert talk.main([other, "Hello", "--tokenizer", ears]) == 1
    assert "units must come from the tokenizer abc" in capsys.readouterr().err
    assert talk.main([other, "Hello", "--decoder", voice]) == 1
    assert "units must be of the tokenizer" in capsys.readouterr().err
    assert talk.main([other, str(root / "question.wav")]) == 2
    assert "--tokenizer is needed to hear recordings" in capsys.readouterr().err
    assert talk.main([other, "Hello", "--output", "x.wav"]) == 2
    assert "need --decoder" in capsys.readouterr().err


def test_the_help_says_what_may_be_given(capsys):
    with pytest.raises(SystemExit) as ended:
        talk.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--answer_language" in told
    assert "aplay" in told

"""The generate job on a real Ray: every prompt answered or rejected, and what is done is not done again."""

import json

import numpy as np
import pytest
import soundfile

from cslm import cluster, contracts, storage
from cslm.apps import generate
from cslm.data import prompts
from cslm.lm.generate import Generator, Sampling
from cslm.speech import tokenizer as speech
from tests.data import aligning, answering, any_voice, sounds

GREEDY = Sampling(temperature=0, max_new_tokens=40)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("generate")
    described = speech.describe(str(aligning.learned_folder(root / "tokenizer")))
    facts = {"num_units": described["codebook_size"], "tokenizer": described["fingerprint"]}
    answering.model_folder(root / "model", **facts)
    any_voice.decoder_folder(root / "decoder", facts["tokenizer"], facts["num_units"])
    sounds.write(root / "clips" / "one.wav", 1)
    (root / "clips" / "broken.wav").write_bytes(b"RIFF no sound")
    rows = [
        {"id": "heard", "task": "asr", "language": "en", "audio": "clips/one.wav"},
        {"id": "span", "task": "answer", "language": "en", "answer_language": "zh", "audio": "clips/one.wav",
         "end_s": 0.5},
        {"id": "a/b", "task": "s2s", "language": "en", "units": [1, 2, 3], "tokenizer": facts["tokenizer"]},
        {"id": "read", "task": "tts", "language": "es", "text": "Es rojo."},
        {"id": "broken", "task": "asr", "language": "en", "audio": "clips/broken.wav"},
        {"id": "gone", "task": "asr", "language": "en", "audio": "clips/gone.wav"},
        {"id": "tongue", "task": "asr", "language": "tlh", "units": [1]},
        {"id": "codes", "task": "asr", "language": "en", "units": [9999]},
        {"id": "other", "task": "asr", "language": "en", "units": [1], "tokenizer": "another"},
        {"id": "task", "task": "sing", "language": "en", "text": "la"},
    ]  # fmt: skip
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def run(root, output, **changes):
    settings = {
        "model.path": root / "model",
        "data.prompts": root / "prompts.jsonl",
        "speech.tokenizer": root / "tokenizer",
        "speech.decoder": root / "decoder",
        "sampling.temperature": 0,
        "sampling.max_new_tokens": 40,
        "generate.rows_per_shard": 5,
        "generate.max_actors": 1,
        "max_reject_fraction": 0.9,
        "output.path": output,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return generate.main([part for name, value in settings.items() for part in (f"--{name}", str(value))])


def without_ray(monkeypatch):
    def refuse(section):
        raise AssertionError("Ray must not be needed")

    monkeypatch.setattr(cluster, "connect", refuse)


@pytest.fixture(scope="module")
def output(root, ray_cluster, tracking_store, tmp_path_factory):
    output = tmp_path_factory.mktemp("generated") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert run(root, output) == 0
    return output


def table(output, name):
    found = storage.read_table(str(output / name))
    return {row["id"]: row for row in contracts.load(name).check(found).to_pylist()}


def test_every_prompt_is_answered_or_rejected_with_its_reason(output, root):
    responses, rejects = table(output, "responses"), table(output, "rejects")
    assert set(responses) == {"heard", "span", "a/b", "read"}
    assert {name: (row["stage"], row["error"]) for name, row in rejects.items()} == {
        "broken": ("audio", "corrupt"),
        "gone": ("audio", "missing"),
        "tongue": ("generate", "bad_prompt"),
        "codes": ("generate", "wrong_units"),
        "other": ("generate", "wrong_units"),
        "task": ("manifest", "bad_prompt"),
    }
    summary = storage.read_json(str(output / "summary.json"))
    assert summary["rows"] == {"prompts": 10, "responses": 4, "rejected": 6}
    assert summary["tasks"] == {"asr": 1, "answer": 1, "s2s": 1, "tts": 1}


def test_responses_are_what_the_model_says_to_the_prompt_alone(output, root):
    responses = table(output, "responses")
    rows = {row["id"]: row for name in ("shard-00000", "shard-00001") for row in prompts.read_shard(str(output), name)}
    generator = Generator.load(str(root / "model"))
    tokenizer = speech.load("learned", str(root / "tokenizer"))
    clip = sounds.waveform(1)
    for name, end in (("heard", None), ("span", 8000)):
        rows[name]["units"] = speech.encode_all(tokenizer, [clip[:end]])[0].units.tolist()
    for name, response in responses.items():
        [expected] = generator.generate([prompts.prompt_of(rows[name])], GREEDY)
        if name != "span":  # of a span the last samples are a matter of the resampler
            assert response["ids"] == expected.ids
            assert response["text"] == expected.text
            assert response["units"] == expected.units
        assert [span["text"] is None for span in response["spans"]] == [kind == "speech" for kind, _ in expected.spans]


def test_speech_is_written_as_sound(output):
    responses = table(output, "responses")
    assert responses["heard"]["audio"] is None
    for name in ("span", "a/b", "read"):
        samples, rate_hz = soundfile.read(responses[name]["audio"])
        assert len(samples) / rate_hz == pytest.approx(responses[name]["audio_s"], abs=1e-3)
        assert len(samples) == len(responses[name]["units"]) * 640
        assert np.abs(samples).max() > 0
    assert responses["a/b"]["audio"].endswith("/audio/a%2Fb.wav")


def test_the_same_command_again_has_nothing_to_do(output, root, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    assert run(root, output) == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_only_what_is_missing_is_done_again(output, root, home):
    kept = output / "responses" / "shard-00000.parquet"
    before = kept.stat().st_mtime_ns
    (output / "summary.json").unlink()
    (output / "ledger" / "shard-00001.json").unlink()
    expected = table(output, "rejects")
    assert run(root, output) == 0
    assert kept.stat().st_mtime_ns == before
    assert table(output, "rejects") == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"speech__tokenizer": "null"}, "speech.tokenizer: needed for the 4 prompts with audio"),
        ({"speech__decoder": "model"}, "speech.decoder: must be a folder with a speech decoder, found none"),
        ({"speech__speaker": "nobody"}, "speech.speaker: must be a voice of the decoder"),
        ({"model__path": "tokenizer"}, "model.path: must be a trained model's folder"),
    ],
)
def test_what_does_not_fit_together_is_told_before_any_work(root, home, monkeypatch, capsys, changes, expected):
    without_ray(monkeypatch)
    places = {name: value if value in ("null", "nobody") else root / value for name, value in changes.items()}
    assert run(root, home / "out", **places) == 2
    assert expected in capsys.readouterr().err

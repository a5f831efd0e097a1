"""The evaluation as users run it: the references score perfectly, a model that knows nothing scores as chance does."""

import math
from pathlib import Path

import pytest

from cslm import contracts, storage
from cslm.apps import evaluate
from cslm.lm import vocabulary
from cslm.tracking import Run
from tests.data import sounds, tables, untrained
from tests.data.endpoint import Endpoint

PERFECT = {
    **dict.fromkeys(("cer", "wer", "silent", "question_cer", "asr_er", "off_target", "speech_off_target"), 0.0),
    **dict.fromkeys(("accuracy", "speech_accuracy"), 1.0),
    **dict.fromkeys(("bleu", "chrf"), 100.0),
}
DATA = {
    "data.units": "units",
    "data.parallel_text": "parallel_text",
    "data.dialogues": "dialogues",
    "bootstrap.resamples": "200",
}
# Outputs are drawn from all that may come, so that chance has its say.
RANDOM = {
    "model.path": "model",
    "speech.decoder": "voice",
    "speech.recogniser": "listener",
    "sampling.temperature": "1",
    "sampling.top_p": "1",
    "sampling.max_new_tokens": "32",
    "sampling.spoken": "always",
    "evaluate.max_questions": "6",
    "evaluate.num_workers": "1",
    "perplexity.max_examples": "4",
    "latency.max_questions": "1",
    "latency.answer_words": "20",
    "pairs.folders.swuggy": "pairs",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with tables whose translations and answers are spoken too, which is CSLM_HOME here."""
    root = tmp_path_factory.mktemp("home")
    tables.write(root)
    speak_answers(root)
    untrained.write(root / "model")
    untrained.write_voice(root / "voice")
    untrained.write_listener(root / "listener")
    (root / "pairs").mkdir()
    for number in range(4):
        sounds.write(root / "pairs" / f"{number}_{'in' if number % 2 else ''}correct.wav", number)
    for name, other in ((0, 1), (2, 3)):
        (root / "pairs" / f"{other}_incorrect.wav").rename(root / "pairs" / f"{name}_incorrect.wav")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSLM_HOME", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield root


def speak_answers(root: Path) -> None:
    pairs = [
        {**row, "source_audio": row["id"].replace("p", "u")}
        for row in storage.read_table(str(root / "parallel_text")).to_pylist()
    ]
    storage.write_table(contracts.load("parallel_text").table(pairs), str(root / "parallel_text" / "part-0.parquet"))
    dialogues = storage.read_table(str(root / "dialogues")).to_pylist()
    for row in dialogues:
        row["turns"][-1]["audio"] = row["id"].replace("d", "u")
    storage.write_table(contracts.load("dialogues").table(dialogues), str(root / "dialogues" / "part-0.parquet"))


def run(output, **settings):
    whole = {"output.path": output, **DATA, **settings}
    return evaluate.main([part for key, value in whole.items() for part in (f"--{key}", value)])


@pytest.fixture(scope="module")
def perfect(home):
    assert run("perfect", **{"model.is_reference": "true"}) == 0
    return home / "perfect"


@pytest.fixture(scope="module")
def chance(home, ray_cluster):
    assert run("chance", **RANDOM) == 0
    return home / "chance"


def summary_of(output):
    return storage.read_json(str(output / "summary.json"))


def test_the_references_score_perfectly(perfect):
    summary = summary_of(perfect)
    assert {name.rpartition("/")[0] for name in summary["metrics"]} == {
        "asr/en", "tts/en", "mt/en-es", "st/en-es", "answer/en-en",
    }  # fmt: skip
    for name, value in summary["metrics"].items():
        wanted = PERFECT[name.rpartition("/")[2]]
        assert value == pytest.approx(wanted), name
        # A resample of short sentences may have no four words in a row, and then no BLEU.
        if not name.endswith("bleu"):
            assert summary["intervals"][name] == pytest.approx([wanted, wanted]), name
    assert summary["counts"] == {"asr/en": 12, "tts/en": 12, "mt/en-es": 12, "st/en-es": 12, "answer/en-en": 8}


def test_a_model_that_knows_nothing_scores_as_chance_does(chance, home):
    summary = summary_of(chance)
    metrics, intervals = summary["metrics"], summary["intervals"]
    rows = vocabulary.load(str(home / "model")).num_rows
    for name, value in metrics.items():
        if name.endswith("perplexity"):
            assert value == pytest.approx(rows, rel=1e-3), name
    assert {"tts/en/perplexity", "units/en/perplexity", "answer/en-en/unit_perplexity"} <= metrics.keys()
    assert metrics["answer/en-en/accuracy"] == metrics["answer/en-en/speech_accuracy"] == 0
    for name in ("asr/en/cer", "tts/en/cer", "answer/en-en/question_cer", "answer/en-en/asr_er"):
        assert metrics[name] > 0.6, name
    for name in ("mt/en-es/bleu", "st/en-es/bleu"):
        assert metrics[name] < 5, name
    # Speech and its text have nothing in common, and one is found among twelve by luck.
    low, high = intervals["alignment/en/gap"]
    assert low <= 0 <= high
    assert metrics["alignment/en/retrieval"] <= 3 / 12
    assert metrics["swuggy/en/accuracy"] == 0.5


def test_all_that_was_measured_is_told_with_what_made_it(chance, home):
    summary = summary_of(chance)
    assert summary["intervals"].keys() == summary["items"].keys() == summary["metrics"].keys()
    made_by = summary["made_by"]
    assert made_by["model"] == str(home / "model")
    assert "griffin_lim" in made_by["decoder"]
    assert "recogniser of the learned tokenizer" in made_by["recogniser"]
    assert "lingua" in made_by["language_identification"]
    assert made_by["bootstrap"]["seed"] == 0
    assert summary["metrics"]["answer/en-en/full_over_interleaved"] > 0
    assert set(summary["layers"]["alignment/en"]) == {"parallel", "random", "retrieval"}
    record = storage.read_json(str(chance / "mlflow_run.json"))
    tracked = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{home}/mlflow.db"})
    assert tracked.history("eval/asr/en/cer")[0][1] == pytest.approx(summary["metrics"]["asr/en/cer"], abs=1e-4)
    assert tracked.history("eval/asr/en/cer/low")[0][1] <= tracked.history("eval/asr/en/cer/high")[0][1]


def test_the_report_needs_nothing_beside_it_and_plays_the_answers(chance):
    html = (chance / "report.html").read_text()
    assert "data:audio/wav;base64," in html
    assert "<svg" in html
    assert 'src="http' not in html
    assert 'href="http' not in html
    assert "answer/en-en" in html
    predictions = storage.read_table(str(chance / "predictions")).to_pylist()
    samples = [row["sample"] for row in predictions if row["sample"]]
    assert samples
    assert all((chance / sample).exists() for sample in samples)


@pytest.mark.slow
def test_what_is_kept_is_not_asked_again(chance, capsys):
    kept = sorted((chance / "kept").rglob("*.parquet"))
    before = {file: file.stat().st_mtime_ns for file in kept}
    predictions = storage.read_table(str(chance / "predictions"))
    assert run("chance", **RANDOM) == 0
    assert "finished before" in capsys.readouterr().out
    # As after an interruption: one file was not written yet.
    lost = next(file for file in kept if "/ask/" in str(file))
    lost.unlink()
    (chance / "summary.json").unlink()
    assert run("chance", **RANDOM) == 0
    assert "results of an earlier run are kept" in capsys.readouterr().out
    assert all(file.stat().st_mtime_ns == before[file] for file in kept if file != lost)
    # What a model draws for an item does not depend on what else is asked beside it.
    assert storage.read_table(str(chance / "predictions")).equals(predictions)


def test_two_evaluations_are_compared_item_by_item(chance, perfect, home, capsys):
    assert evaluate.main(["--compare", "chance", "perfect", "--bootstrap.resamples", "200"]) == 0
    output = perfect / "compared_with_chance"
    summary = storage.read_json(str(output / "summary.json"))
    found = summary["differences"]["answer/en-en/accuracy"]
    assert (found["a"], found["b"], found["difference"], found["items"]) == (0, 1, 1, 6)
    assert found["low"] > 0
    assert found["p_value"] < 0.05
    assert "asr/en/perplexity" not in summary["differences"]
    items = storage.read_table(str(output / "differences")).to_pylist()
    assert len([row for row in items if row["metric"] == "accuracy"]) == 6
    assert "better" in (output / "comparison.html").read_text()
    assert "paired bootstrap" in capsys.readouterr().out
    assert evaluate.main(["--compare", "chance", "chance", "--output.path", "same"]) == 0
    same = storage.read_json(str(home / "same" / "summary.json"))
    assert same["items_that_differ"] == 0
    assert all(math.isclose(one["difference"], 0) for one in same["differences"].values())


def test_a_judge_grades_text_and_speech_once_and_its_key_is_nowhere(perfect, home, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-of-the-judge")
    with Endpoint(["4"]) as judge:
        settings = {"model.is_reference": "true", "judge.url": judge.url, "judge.key_variable": "A_KEY"}
        assert run("graded", **settings, **{"judge.max_questions": "3"}) == 0
        assert len(judge.seen) == 6
        metrics = summary_of(home / "graded")["metrics"]
        assert metrics["answer/en-en/grade"] == metrics["answer/en-en/speech_grade"] == 4
        # More are asked for: those that are graded are not sent again.
        assert run("graded", **settings, **{"judge.max_questions": "5"}) == 0
        assert len(judge.seen) == 10
        assert {key for _, key, _ in judge.seen} == {"Bearer secret-of-the-judge"}
    found = [file for file in home.rglob("*") if file.is_file() and b"secret-of-the-judge" in file.read_bytes()]
    assert found == []


def test_faults_are_told_all_at_once(home, capsys):
    assert evaluate.main(["--output.path", "bad", "--data.units", "nowhere", "--speech.decoder", "model"]) == 2
    told = capsys.readouterr().err
    assert "model.path: required" in told
    assert "data.units: must be a units table" in told
    assert "speech.decoder: must be a folder of jobs/decoder.py" in told
    assert evaluate.main(["--compare", "nowhere", "perfect"]) == 2
    assert "found no scores" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main(["--compare", "perfect"])

"""Learning a tokenizer as users do: real Ray Train with two ranks over gloo, then units of it by the tokenize job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cslm import storage
from cslm.apps import fit_tokenizer, tokenize
from cslm.data import spectra
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import encode_all
from cslm.tracking import Run
from cslm.train import data_parallel
from cslm.train.recogniser import worker
from tests.data import sounds

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "corpus.manifest": "corpus/corpus.jsonl",
    "learn.max_hours": 0.02,
    "fit.max_steps": 8,
    "fit.batch_s": 6.0,
    "fit.warmup_steps": 2,
    "fit.log_every_steps": 2,
    "fit.evaluate_every_steps": 4,
    "fit.checkpoint_every_steps": 2,
    "units.codebook_size": 30,
}


def arguments(output, **changes):
    settings = {"output.path": output, **SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with words of two languages that are told apart by pitch, which is CSLM_HOME for the jobs."""
    root = tmp_path_factory.mktemp("home")
    rows = []
    for number in range(48):
        low = number % 2
        name = f"{number}.wav"
        samples = sounds.tone(0.6, hz=300.0 if low else 2_000.0) + 0.02 * sounds.waveform(number, 0.6)
        (root / "corpus").mkdir(exist_ok=True)
        (root / "corpus" / name).write_bytes(sounds.encoded(samples))
        text = ("low" if low else "high") if number % 3 else ("低" if low else "高")
        language, split = "en" if number % 3 else "zh", "dev" if number % 8 == 7 else "train"
        rows.append({"id": f"u{number:02}", "audio": name, "text": text, "language": language, "split": split})
    rows.append({"id": "silent", "audio": "0.wav", "text": "", "language": "en", "split": "train"})
    (root / "corpus" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSLM_HOME", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield root


@pytest.fixture(scope="module")
def fitted(home, ray_cluster):
    assert fit_tokenizer.main(arguments("fitted")) == 0
    return home / "fitted"


def test_it_leaves_one_folder_that_says_what_it_is(fitted):
    summary = storage.read_json(str(fitted / "summary.json"))
    assert summary["status"] == "done"
    assert summary["training"]["step"] == 8
    assert {name: facts["utterances"] for name, facts in summary["learned_from"].items()} == {"en": 28, "zh": 14}
    assert set(summary["qualities"]["character_error_rate"]) == {"en", "zh"}
    described = speech.describe(str(fitted / "tokenizer"))
    assert described["codebook_size"] == 30
    assert described["fingerprint"] == summary["tokenizer"]["fingerprint"]
    assert described["fingerprint"] in (fitted / "tokenizer" / "README.md").read_text()
    assert set("lowhigh低高") <= set(described["network"]["characters"])


def test_its_curves_are_in_the_tracking_run(fitted):
    record = storage.read_json(str(fitted / "mlflow_run.json"))
    client = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{fitted.parent}/mlflow.db"})._client
    assert [point.step for point in client.get_metric_history(record["run_id"], "loss/total")] == [1, 2, 4, 6, 8]
    errors = client.get_metric_history(record["run_id"], "eval/asr/zh/cer")
    assert {4, 8} <= {point.step for point in errors}


def test_the_tokenize_job_makes_its_units(fitted, home):
    options = {"corpus.manifest": "corpus/corpus.jsonl", "output.path": "units", "filters.duplicate_audio": False}
    options |= {"tokenizer.path": "fitted/tokenizer"}  # whose kind needs no telling
    assert tokenize.main([part for key, value in options.items() for part in (f"--{key}", str(value))]) == 0
    rows = storage.read_table(str(home / "units" / "units")).to_pylist()
    tokenizer = speech.load("learned", str(fitted / "tokenizer"))
    assert {row["tokenizer"] for row in rows} == {tokenizer.fingerprint}
    assert len(rows) == 49
    import soundfile

    row = next(row for row in rows if row["id"] == "u05")
    samples, _ = soundfile.read(home / "corpus" / "5.wav", dtype="float32")
    assert row["units"] == encode_all(tokenizer, [samples])[0].units.tolist()


def test_the_same_command_again_does_nothing_and_another_budget_only_trains(fitted, capsys):
    assert fit_tokenizer.main(arguments("fitted")) == 0
    assert "finished before" in capsys.readouterr().out
    written = {file: os.stat(file).st_mtime_ns for file in storage.list_files(str(fitted / spectra.FOLDER), ".parquet")}
    assert written
    assert fit_tokenizer.main(arguments("fitted", units__codebook_size=20)) == 0
    assert speech.describe(str(fitted / "tokenizer"))["codebook_size"] == 20
    assert written == {file: os.stat(file).st_mtime_ns for file in written}


@pytest.mark.slow
def test_two_fits_are_alike(fitted, home):
    assert fit_tokenizer.main(arguments("twin", units__codebook_size=20)) == 0
    assert fit_tokenizer.main(arguments("fitted", units__codebook_size=20)) == 0
    one, other = (speech.describe(str(home / name / "tokenizer"))["fingerprint"] for name in ("twin", "fitted"))
    assert one == other


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_training_it_goes_on_and_ends_the_same(fitted, home):
    """kill -9 of the job and its whole Ray behind a checkpoint."""
    settings = arguments("killed", fit__max_steps=60, fit__log_every_steps=1)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "fit_tokenizer.py"), *settings],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = home / "killed" / data_parallel.CHECKPOINT
    deadline = time.monotonic() + 200
    while not checkpoint.exists():
        assert process.poll() is None, "the job ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (home / "killed" / worker.RESULT).exists()
    assert fit_tokenizer.main(settings) == 0
    assert fit_tokenizer.main(arguments("whole", fit__max_steps=60, fit__log_every_steps=1)) == 0
    one, other = (home / name / worker.WEIGHTS for name in ("killed", "whole"))
    assert one.read_bytes() == other.read_bytes()
    samples = [sounds.waveform(seed, 1.0) for seed in range(3)]
    for first, second in zip(
        *(speech.load("learned", str(home / name / "tokenizer")).encode(samples) for name in ("killed", "whole")),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)

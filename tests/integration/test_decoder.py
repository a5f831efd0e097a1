"""The decoder job as users run it: real Ray Train with two ranks over gloo, then the decoder that it leaves speaks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cslm import storage
from cslm.apps import decoder as job
from cslm.data import clips
from cslm.speech import decoder
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizers import saved as tokenizers
from cslm.tracking import Run
from cslm.train import data_parallel
from cslm.train.decoder import worker
from tests.data import aligning

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "fit.max_steps": 4,
    "fit.batch_s": 4.0,
    "fit.num_crops": 2,
    "fit.crop_frames": 16,
    "fit.log_every_steps": 2,
    "fit.evaluate_every_steps": 4,
    "fit.checkpoint_every_steps": 2,
    "decoder.flow_steps": 1,
    "measure.max_utterances": 3,
    "measure.num_samples": 1,
    "max_reject_fraction": 0.5,
}


def arguments(units, output, **changes):
    settings = {"data.units": units, "output.path": output, **SETTINGS}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenized")
    aligning.write_units(root, 46, rows_a_file=16)
    return root


@pytest.fixture(scope="module")
def trained(tokenized, ray_cluster, tracking_store, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert job.main(arguments(tokenized, output)) == 0
    return output


def test_it_leaves_a_decoder_of_these_units_and_figures(trained, tokenized, tracking_store):
    loaded = decoder.load(str(trained / "decoder"))
    assert loaded.kind == "flow"
    assert loaded.tokenizer == speech.describe(str(tokenized / "tokenizer"))["fingerprint"]
    assert len(loaded.speak([1, 2, 3], [1, 2, 1])) == 4 * 640
    summary = storage.read_json(str(trained / "summary.json"))
    assert summary["status"] == "done"
    assert summary["training"]["step"] == 4
    for variant in ("vocoder", "true_durations", "own_voice", "resynthesis"):
        assert {f"{variant}/en/cer", f"{variant}/mean/ratio"} <= summary["metrics"].keys()
    record = storage.read_json(str(trained / "mlflow_run.json"))
    client = Run.attach({"run_id": record["run_id"], "uri": tracking_store})._client
    assert [point.step for point in client.get_metric_history(record["run_id"], "loss/total")] == [1, 2, 4]
    assert client.get_metric_history(record["run_id"], "eval/decoder/times_real_time")
    sounds = storage.list_files(str(trained / "samples"), ".wav")
    assert len(sounds) == 2
    assert (trained / "samples.png").stat().st_size > 10_000
    assert loaded.fingerprint in (trained / "decoder" / "README.md").read_text()
    assert storage.read_table(str(trained / "predictions")).num_rows == summary["measured_utterances"]


def test_the_same_command_again_does_nothing_and_a_longer_flow_trains_nothing(trained, tokenized, capsys, home):
    assert job.main(arguments(tokenized, trained)) == 0
    assert "finished before" in capsys.readouterr().out
    written = {file: os.stat(file).st_mtime_ns for file in storage.list_files(str(trained / clips.FOLDER))}
    weights = os.stat(trained / worker.WEIGHTS).st_mtime_ns
    assert job.main(arguments(tokenized, trained, decoder__flow_steps=3)) == 0
    assert decoder.describe(str(trained / "decoder"))["settings"]["flow_steps"] == 3
    assert written == {file: os.stat(file).st_mtime_ns for file in written}
    assert weights == os.stat(trained / worker.WEIGHTS).st_mtime_ns


def test_the_stand_in_needs_no_training(tokenized, ray_cluster, home):
    assert job.main(arguments(tokenized, home / "means", decoder__kind="griffin_lim")) == 0
    loaded = decoder.load(str(home / "means" / "decoder"))
    assert loaded.kind == "griffin_lim"
    assert np.abs(loaded.speak([1, 2, 3] * 5)).max() > 0
    assert not (home / "means" / worker.WEIGHTS).exists()
    assert "Untrained" in (home / "means" / "decoder" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__units": "nothing"}, "data.units"),
        ({"measure__split": "train"}, "measure.split"),
        ({"decoder__sample_rate_hz": 22_050}, "multiple of 100"),
        ({"measure__recogniser": "nothing"}, "measure.recogniser"),
    ],
)
def test_what_it_cannot_do_is_told_before_any_work(tokenized, home, capsys, changes, told):
    assert job.main(arguments(tokenized, home / "bad", **changes)) == 2
    assert told in capsys.readouterr().err


def test_units_of_another_tokenizer_than_the_one_beside_them_are_refused(tokenized, ray_cluster, home, capsys):
    shutil.copytree(tokenized / "units", home / "units" / "units")
    aligning.learned_folder(home / "units" / "tokenizer")
    record = home / "units" / "tokenizer" / tokenizers.SETTINGS_FILE
    record.write_text(
        record.read_text().replace(speech.describe(str(record.parent))["fingerprint"], "0123456789abcdef")
    )
    assert job.main(arguments(home / "units", home / "out")) == 1
    assert "0123456789abcdef" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_training_it_goes_on_and_ends_the_same(tokenized, ray_cluster, home):
    """kill -9 of the job and its whole Ray behind a checkpoint."""
    changes = {"fit__max_steps": 60, "fit__checkpoint_every_steps": 10, "fit__log_every_steps": 1}
    settings = arguments(tokenized, home / "killed", **changes)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "decoder.py"), *settings],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = home / "killed" / data_parallel.CHECKPOINT
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.poll() is None, "the job ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (home / "killed" / worker.RESULT).exists()
    assert job.main(settings) == 0
    assert job.main(arguments(tokenized, home / "whole", **changes)) == 0
    one, other = (home / name / worker.WEIGHTS for name in ("killed", "whole"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_the_demo_it_is_understood(ray_cluster, home):
    """The bound that `make demo` keeps: held-out resynthesis is misheard at most half as often again."""
    demo = ROOT / "runs" / "demo"
    if not (demo / "tokenize" / "summary.json").exists():
        pytest.skip("make demo makes the units that this is measured on")
    config = str(ROOT / "jobs" / "configs" / "decoder" / "demo.yaml")
    changes = {"data.units": demo / "tokenize", "output.path": home / "demo", "fit.max_minutes": "null"}
    assert (
        job.main(["--config", config, *(part for name, one in changes.items() for part in (f"--{name}", str(one)))])
        == 0
    )
    metrics = storage.read_json(str(home / "demo" / "summary.json"))["metrics"]
    assert metrics["resynthesis/mean/ratio"] <= 1.5
    assert metrics["vocoder/mean/ratio"] <= 1.15

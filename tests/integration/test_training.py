"""The training jobs as users run them: real Ray Train, two ranks of DeepSpeed ZeRO-3 over gloo, real tables."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cslm import storage
from cslm.apps import evaluate, pretrain, sft, tokenize
from cslm.errors import CheckpointError
from cslm.lm import chain, vocabulary
from cslm.tracking import Run
from cslm.train import checkpoint
from tests.data import tables

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ROOT.parent / "shared" / "data" / "fsdd"
# fp32, so that equality can be asked for to the last bit.
SETTINGS = {
    "data.units": "units",
    "data.parallel_text": "parallel_text",
    "data.dialogues": "dialogues",
    "data.row_length": 128,
    "data.chain.form": "full",
    "model.shape": "micro",
    "model.text_vocab_size": 320,
    "train.num_workers": 2,
    "train.rows_per_step": 4,
    "train.micro_batch_rows": 2,
    "train.max_steps": 12,
    "train.learning_rate": 3e-3,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 4,
    "deepspeed.precision": "fp32",
}

EVALUATED = {"train__evaluation__split": "test", "train__evaluation__every_steps": 5}


def arguments(output, **changes):
    settings = {"output.path": output, **SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with small tables, which is CSLM_HOME for the jobs of this module."""
    root = tmp_path_factory.mktemp("home")
    tables.write(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSLM_HOME", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield root


@pytest.fixture(scope="module")
def base(home, ray_cluster):
    """A model pre-trained without any disturbance."""
    assert pretrain.main(arguments("base", **EVALUATED)) == 0
    return home / "base"


def weights(output):
    return load_file(output / "model" / "model.safetensors")


def test_pretraining_leaves_a_model_that_opens_and_has_learned(base):
    summary = storage.read_json(str(base / "summary.json"))
    assert summary["status"] == "done"
    assert summary["steps"] == 12
    assert {"asr/en", "tts/en", "mt/en-es", "text/en-en", "total"} <= set(summary["loss_last"])
    assert summary["loss_last"]["total"] < summary["loss_first"]["total"]
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    layout = vocabulary.load(str(base / "model"))
    assert model.get_input_embeddings().weight.shape[0] == layout.num_rows
    assert tokenizer.convert_tokens_to_ids("<unit_0>") == layout.num_text
    assert torch.isfinite(model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()


def test_losses_are_in_the_tracking_run_once_a_step(base):
    record = storage.read_json(str(base / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{base.parent}/mlflow.db"})
    steps = [1, 2, 4, 6, 8, 10, 12]
    history = run._client.get_metric_history(record["run_id"], "loss/total")
    assert [point.step for point in history] == steps
    # Those of one task are there as often as the task was in the rows since the figures before, and never twice.
    history = run._client.get_metric_history(record["run_id"], "loss/asr/en")
    seen = [point.step for point in history]
    assert seen == sorted(set(seen))
    assert set(seen) <= set(steps)
    assert len(seen) > 3
    assert run._client.get_run(record["run_id"]).info.status == "FINISHED"


def test_the_held_out_split_is_evaluated_at_its_steps_and_at_the_last(base):
    record = storage.read_json(str(base / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{base.parent}/mlflow.db"})
    history = run._client.get_metric_history(record["run_id"], "eval/loss/total")
    assert [point.step for point in history] == [5, 10, 12]
    summary = storage.read_json(str(base / "summary.json"))
    assert summary["best_evaluation"]["loss"] == pytest.approx(min(point.value for point in history), abs=1e-4)
    assert 0 < summary["mfu"] < 1
    assert 0 <= summary["data_wait_fraction"] < 1


def test_a_finished_job_says_so_and_does_nothing(base, capsys):
    before = (base / "model" / "model.safetensors").stat().st_mtime_ns
    assert pretrain.main(arguments("base", **EVALUATED)) == 0
    assert "finished before" in capsys.readouterr().out
    assert (base / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(900)  # three starts of Ray, one after the other
def test_killed_with_all_its_workers_it_goes_on_and_ends_the_same(base, home):
    """kill -9 of the job and its whole Ray after a checkpoint; the next run must end with the same weights."""
    output = home / "killed"
    # Enough steps that there is time to be killed in; the same number for the run that is compared.
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *arguments("killed", train__log_every_steps=1)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not checkpoint.complete_steps(str(output)):
        assert process.poll() is None, "the job ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "summary.json").exists()
    assert pretrain.main(arguments("killed", train__log_every_steps=1)) == 0
    undisturbed, resumed = weights(base), weights(output)
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_fine_tuning_and_evaluation_go_on_from_the_model(base, home):
    changes = {"model__path": "base/model", "train__max_steps": 3, "train__checkpoint_every_steps": 100}
    assert sft.main(arguments("chat", **changes)) == 0
    summary = storage.read_json(str(home / "chat" / "summary.json"))
    assert "answer/en-en" in summary["loss_last"]
    assert vocabulary.load(str(home / "chat" / "model")) == vocabulary.load(str(base / "model"))
    taught = chain.recorded(str(home / "chat" / "model"))
    assert taught is not None, "who asks the model must know in which form it answers"
    command = ["--output.path", "report", "--model.path", "chat/model", "--data.units", "units"]
    command += ["--data.dialogues", "dialogues", "--sampling.max_new_tokens", "8"]
    command += ["--perplexity.max_examples", "2", "--similarity.max_pairs", "4", "--evaluate.max_spoken", "3"]
    assert evaluate.main(command) == 0
    report = storage.read_json(str(home / "report" / "summary.json"))
    asked = {"asr/en": 12, "tts/en": 3, "answer/en-en": 8}
    assert asked.items() <= report["counts"].items()
    assert 0 <= report["metrics"]["answer/en-en/accuracy"] <= 1
    predictions = storage.read_table(str(home / "report" / "predictions"))
    assert predictions.num_rows == sum(asked.values())


@pytest.mark.slow
def test_recordings_of_people_are_tokenized_and_trained_on(home, ray_cluster):
    if not PEOPLE.is_dir():
        pytest.skip(f"no recordings of people at {PEOPLE}")
    # Every speaker says every digit, in the manifest's own splits.
    lines = (PEOPLE / "manifest.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["id"].rpartition("_")[2] in ("1", "4", "5")]
    with (home / "people.jsonl").open("w") as manifest:
        for row in rows:
            manifest.write(json.dumps(row | {"audio": str(PEOPLE / row["audio"])}) + "\n")
    fit = ["--tokenizer.kmeans.codebook_size", "100", "--tokenizer.kmeans.fit_audio_s", "30"]
    assert tokenize.main(["--corpus.manifest", "people.jsonl", "--output.path", "digits", *fit]) == 0
    told = storage.read_json(str(home / "digits" / "summary.json"))
    assert told["rows"]["accepted"] == len(rows) == 150
    command = ["--data.units", "digits", "--output.path", "digits_model", "--deepspeed.zero_stage", "3"]
    changes = {"model.shape": "micro", "model.text_vocab_size": 320, "data.row_length": 256, "train.max_steps": 4}
    changes |= {"train.rows_per_step": 2, "train.micro_batch_rows": 1, "train.learning_rate": 0.003}
    assert pretrain.main(command + [part for key, value in changes.items() for part in (f"--{key}", str(value))]) == 0
    trained = storage.read_json(str(home / "digits_model" / "summary.json"))
    assert trained["packed"]["tasks"]["asr/en"]["examples"] == sum(row["split"] == "train" for row in rows)
    assert trained["loss_last"]["total"] < trained["loss_first"]["total"]


def test_units_of_another_tokenizer_are_refused(base, home, tmp_path, capsys):
    tables.write(tmp_path)
    path = tmp_path / "units" / "units"
    for file in storage.list_files(str(path), ".parquet"):
        table = storage.read_table(file)
        column = table.column_names.index("tokenizer")
        other = table.set_column(column, "tokenizer", [["f" * 16] * table.num_rows])
        storage.write_table(other, file)
    code = pretrain.main(arguments("other", model__path="base/model", data__units=tmp_path / "units"))
    assert code == 1
    message = capsys.readouterr().err
    assert "f" * 16 in message
    assert tables.TOKENIZER.fingerprint in message


def test_a_preview_shows_examples_and_leaves_nothing_but_its_settings(home):
    """By the real entry point, which prints to no terminal."""
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *arguments("seen"), "--preview", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines() if ". task" in line] == [
        f"{place}. task {task}" for place, task in enumerate(("asr", "tts", "mt", "text"), 1)
    ]
    assert done.stdout.count("⟦") == 5  # the legend's, and one in each example
    assert [path.name for path in (home / "seen").iterdir()] == ["config.yaml"]


def test_the_epoch_is_accounted_for_in_the_tracking_run(base):
    record = storage.read_json(str(base / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{base.parent}/mlflow.db"})
    metrics = run._client.get_run(record["run_id"]).data.metrics
    stats = storage.read_json(str(base / "packed" / "stats.json"))
    assert metrics["data/tokens/asr/en"] == stats["tasks"]["asr/en"]["tokens"] > 0
    kept = {one.path for one in run._client.list_artifacts(record["run_id"])}
    assert {"mixture.txt", "mixture.json", "curves.png"} <= kept
    assert (base / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_tells_what_it_was_made_of_and_with(base):
    record = storage.read_json(str(base / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{base.parent}/mlflow.db"})
    found = run._client.get_run(record["run_id"])
    inputs = {one.dataset.name for one in found.inputs.dataset_inputs}
    assert inputs == {"units", "parallel_text", "dialogues", "packed", "packed_evaluation"}
    assert torch.__version__.startswith(found.data.tags["version.torch"])
    models = [run._client.get_logged_model(one.model_id) for one in found.outputs.model_outputs]
    assert {model.name for model in models} == {"checkpoint-00000004", "checkpoint-00000008", "model"}
    assert {model.tags["cslm.uri"] for model in models} >= {str(base / "model")}
    assert found.data.metrics["throughput/mfu"] > 0
    assert 0 < found.data.metrics["data/packing_efficiency"] <= 1
    assert found.data.metrics["memory/process_bytes"] > 1e8


@pytest.mark.slow
def test_rows_without_a_finite_loss_are_passed_over_or_end_the_run_with_their_names(base, home, capsys):
    """A model in which one token's embedding is infinite: rows that have it are really not to be learned from."""
    ids = storage.read_table(str(base / "packed"), ["input_ids"]).column("input_ids").to_pylist()
    rows_of = Counter(token for row in ids for token in set(row))
    poison = min(rows_of, key=lambda token: (rows_of[token], token))
    shutil.copytree(base / "model", home / "poisoned")
    state = load_file(home / "poisoned" / "model.safetensors")
    state["model.embed_tokens.weight"][poison] = float("inf")
    save_file(state, home / "poisoned" / "model.safetensors", metadata={"format": "pt"})
    # As many steps as there are rows for, so that each comes.
    changes = {
        "model__path": "poisoned",
        "train__max_steps": -(-len(ids) // 4),
        "train__guard__roll_back_after": "null",
    }
    assert pretrain.main(arguments("skipping", **changes)) == 0
    skipped = storage.read_json(str(home / "skipping" / "summary.json"))["skipped_steps"]
    told, *others = storage.read_json(str(home / "skipping" / "bad_rows.json"))
    assert 1 + len(others) == skipped <= rows_of[poison]
    assert "the loss must be finite" in told["reason"]
    named = [storage.read_table(row["file"], ["input_ids"]).column("input_ids")[row["row"]] for row in told["rows"]]
    assert any(poison in row.as_py() for row in named)
    assert len(named) <= 2  # a micro batch, not the whole step
    assert pretrain.main(arguments("stopping", **changes, train__guard__action="stop")) == 1
    assert f"step {told['step']}: the loss must be finite" in capsys.readouterr().err
    record = storage.read_json(str(home / "stopping" / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{home}/mlflow.db"})
    assert run._client.get_run(record["run_id"]).info.status == "FAILED"


def test_an_interleaved_answer_without_alignments_is_refused(base, home, capsys):
    changes = {"model__path": "base/model", "data__chain__form": "interleaved", "data__weights__spans": 1}
    assert sft.main(arguments("unaligned", **changes)) == 2
    message = capsys.readouterr().err
    for part in ("data.alignments: answer", "jobs/align.py", "data.chain.form full", "data.alignments: spans"):
        assert part in message


def test_checkpoints_of_another_vocabulary_are_refused_with_both_hashes(base):
    own = vocabulary.load(str(base / "model")).hash
    assert checkpoint.complete_steps(str(base))
    with pytest.raises(CheckpointError, match=f"vocabulary another, found {own}"):
        checkpoint.choose(str(base), {"vocabulary": "another"})


def test_every_fault_of_a_bad_config_is_listed(home, capsys):
    bad = ["--train.num_workers", "0", "--train.max_stepz", "3", "--data.row_length", "x", "--output.path", "bad"]
    assert pretrain.main(bad) == 2
    message = capsys.readouterr().err
    for part in (
        "train.num_workers",
        "train.max_stepz",
        "did you mean train.max_steps",
        "data.row_length",
        "data.units",
    ):
        assert part in message


def test_inputs_that_are_not_there_are_all_named(home, capsys):
    changes = {"data__units": "nowhere", "model__path": "nothing", "train__rows_per_step": 1}
    assert pretrain.main(arguments("missing", **changes)) == 2
    message = capsys.readouterr().err
    for part in ("data.units", "model.path", "train.rows_per_step"):
        assert part in message

"""From recordings to a trained model with nothing on a disk: tokenize, pretrain, killed and resumed, all on `s3://`."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cslm import contracts, storage
from cslm.train import checkpoint
from tests.data import nodes as nodes_of
from tests.data import object_store, sounds

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 40
NUM_STEPS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Planted:
    """Leaves a folder where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def start(name, home, address, **settings):
    settings = {"cluster.address": address, **settings}
    arguments = [part for key, value in settings.items() for part in (f"--{key.replace('__', '.')}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-P", str(ROOT / "jobs" / f"{name}.py"), *arguments],
        # A relative path of the output hangs from the bucket; MLflow's database cannot lie there.
        env=os.environ | {"CSLM_HOME": f"s3://{object_store.BUCKET}/run", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        process_group=0,
    )


def finished(job):
    said, _ = job.communicate()
    assert job.returncode == 0, said
    return said


def requests_since(server, before):
    """How often each kind of request was made; a listing is a GET of the bucket with a query."""
    kinds = Counter()
    for method, path, _ in server.requests[before:]:
        listing = method == "GET" and re.fullmatch(rf"/{object_store.BUCKET}/?\?.*list-type.*", path)
        kinds["LIST" if listing else method] += 1
    return kinds


@pytest.fixture(scope="module")
def server():
    with object_store.running() as running:
        yield running


@pytest.fixture(scope="module")
def address(server):
    """A cluster whose nodes know the store's endpoint and credentials, as by their role."""
    with nodes_of.cluster() as cluster:
        cluster.add_node(num_cpus=4)
        yield cluster.address


def test_from_recordings_to_a_model_on_an_object_store(server, address, home):
    corpus = home / "corpus"
    corpus.mkdir()
    rows = []
    for number in range(NUM_CLIPS):
        sounds.write(corpus / f"{number}.wav", number, 1.0)
        rows.append({"id": f"u{number:02d}", "audio": f"{number}.wav", "language": "en", "text": f"text {number}"})
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.upload(corpus, "run/corpus")
    bucket = f"s3://{object_store.BUCKET}/run"

    before = len(server.requests)
    tokenize = {"corpus__manifest": "corpus/manifest.jsonl", "corpus__rows_per_shard": 10, "output__path": "units"}
    finished(start("tokenize", home, address, **tokenize, tokenizer__kmeans__codebook_size=20, tokenizer__max_actors=1))
    units = contracts.load("units").check(storage.read_table(f"{bucket}/units/units")).sort_by("id")
    assert units.column("id").to_pylist() == [row["id"] for row in rows]
    told = requests_since(server, before)
    # One reading a recording and a handful of tables; no listing for each of them.
    assert told["LIST"] <= 40
    assert told["PUT"] + told["POST"] <= 60
    assert told["GET"] + told["HEAD"] <= 12 * NUM_CLIPS

    settings = {
        "data__units": "units",
        "data__row_length": 128,
        "model__shape": "micro",
        "model__text_vocab_size": 300,
        "train__device": "cpu",
        "train__num_workers": 2,
        "train__rows_per_step": 4,
        "train__micro_batch_rows": 2,
        "train__max_steps": NUM_STEPS,
        "train__checkpoint_every_steps": 10,
        "train__log_every_steps": 1,
        "deepspeed__precision": "fp32",
        "output__path": "base",
    }
    job = start("pretrain", home, address, **settings)
    while not [step for step in checkpoint.complete_steps(f"{bucket}/base") if step < NUM_STEPS]:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.5)
    os.killpg(job.pid, 9)
    job.communicate()
    reached = checkpoint.complete_steps(f"{bucket}/base")[-1]
    assert 10 <= reached < NUM_STEPS
    # Somebody plants pickles among the files of the checkpoint, and the store is busy now and then.
    for name in ("rank0.pt", "data.pkl", "mp_rank_00_model_states.pt"):
        planted = pickle.dumps(Planted(home / "ran"))
        storage.write_bytes(f"{checkpoint.step_folder(f'{bucket}/base', reached)}/{name}", planted)
    server.failures = 3
    before = len(server.requests)
    said = finished(start("pretrain", home, address, **settings))
    assert server.failures == 0
    told = requests_since(server, before)
    summary = storage.read_json(f"{bucket}/base/summary.json")
    assert summary["steps"] == NUM_STEPS
    assert "step 1/" not in said
    assert not (home / "ran").exists()
    assert told["LIST"] <= 120
    with storage.local_folder(f"{bucket}/base/model") as folder:
        from transformers import AutoModelForCausalLM

        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert not (home / "runs").exists()
    print("requests of resuming:", dict(told))


def test_credentials_are_in_nothing_that_is_kept(server, address, home, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-store")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-of-the-store")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-cluster")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-password-of-mlflow")
    sounds.write(home / "a.wav", 1, 1.0)
    (home / "manifest.jsonl").write_text(json.dumps({"id": "a", "audio": "a.wav", "language": "en"}) + "\n")
    settings = {"corpus__manifest": str(home / "manifest.jsonl"), "output__path": "secret"}
    said = finished(start("tokenize", home, address, **settings, tokenizer__kmeans__codebook_size=4))
    kept = said + "".join(
        storage.read_bytes(f"s3://{object_store.BUCKET}/{key}").decode("utf-8", "replace")
        for key in server.keys("run/secret")
    )
    database = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))
    kept += "".join(
        path.read_bytes().decode("utf-8", "replace") for path in database.parent.rglob("*") if path.is_file()
    )
    assert '"status": "done"' in kept
    for secret in ("a-secret-of-the-store", "a-session-of-the-store", "a-token-of-the-cluster", "a-password-of-mlflow"):
        assert secret not in kept

"""The demo corpus as its job makes it: on Ray, whole, resumable, and the same bytes as without Ray."""

import io

import numpy as np
import pytest
import ray
import soundfile

from cslm import contracts, storage
from cslm.apps.demo_corpus import Config, demo_corpus
from cslm.apps.job import run_job
from cslm.cluster import ClusterSection, connect
from cslm.demo import corpus
from cslm.demo.plan import CorpusSection
from cslm.demo.voices import SAMPLE_RATE_HZ, Speaker
from cslm.errors import ConfigError

SECTION = CorpusSection(num_utterances=120, languages=("en", "zh", "es"), seed=3, shard_size=40)
ARGUMENTS = ["--corpus.num_utterances", "120", "--corpus.seed", "3", "--corpus.shard_size", "40"]


@pytest.fixture(scope="module")
def cluster():
    was_running = ray.is_initialized()
    connect(ClusterSection(num_cpus=2))
    yield
    if not was_running:
        ray.shutdown()


@pytest.fixture(scope="module")
def made(cluster, tmp_path_factory):
    """A corpus made by the job, and the job's exit code."""
    root = tmp_path_factory.mktemp("corpus")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
    code = run_job("demo_corpus", Config, demo_corpus, [*ARGUMENTS, "--output.path", str(root)])
    patch.undo()
    return root, code


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the corpus that a test may spoil, which is also one that has been moved."""
    root = tmp_path / "moved"
    for uri in storage.list_files(str(made[0])):
        storage.write_bytes(f"{root}/{uri.removeprefix(str(made[0]))}", storage.read_bytes(uri))
    return root


def content(root):
    """Every file of the corpus proper by its path, without what the job adds around it."""
    folders = ("audio", "utterances", "parallel_text", "dialogues", "shards")
    return {
        uri.removeprefix(str(root)): storage.read_bytes(uri)
        for folder in folders
        for uri in storage.list_files(f"{root}/{folder}")
    }


def test_the_job_ends_well_and_reports_what_it_made(made):
    root, code = made
    assert code == 0
    report = storage.read_json(f"{root}/corpus.json")
    assert report["num_utterances"] == sum(report["utterances_by_language_and_split"].values()) == 120
    assert storage.read_json(f"{root}/summary.json")["hours"] == report["hours"]
    assert 0.05 < report["hours"] < 0.15
    for table in ("utterances", "parallel_text", "dialogues"):
        contract = contracts.load(table)
        assert contract.check(storage.read_table(f"{root}/{table}")).num_rows > 0


def test_every_row_has_audio_that_can_be_heard_and_spoken_again(copy):
    rows = storage.read_table(f"{copy}/utterances").to_pylist()
    assert len({row["id"] for row in rows}) == 120
    for row in rows:
        samples_T, rate = soundfile.read(
            io.BytesIO(storage.read_bytes(f"{copy}/utterances/{row['audio']}")), dtype="int16"
        )
        assert rate == SAMPLE_RATE_HZ
        assert 0.2 < len(samples_T) / rate < 8
        assert np.abs(samples_T.astype(np.int32)).mean() > 300
    speech = corpus.speak(row["language"], row["text"], Speaker.of(row["speaker"]))
    assert np.array_equal(speech.samples_T, samples_T)


def test_one_process_without_ray_makes_the_same_bytes(made, tmp_path):
    for index in (2, 0, 1):
        corpus.make_shard(str(tmp_path), SECTION, index)
    assert content(tmp_path) == content(made[0])


def test_only_unfinished_shards_are_made_again(cluster, copy):
    before = content(copy)
    untouched = copy / "utterances" / "part-00000.parquet"
    changed_at = untouched.stat().st_mtime_ns
    # As a task that was killed leaves it: tables of its own, no report.
    storage.remove(f"{copy}/shards/part-00001.json")
    storage.remove(f"{copy}/utterances/part-00001.parquet")
    counted = []
    corpus.make(str(copy), SECTION, counted.append)
    assert content(copy) == before
    assert untouched.stat().st_mtime_ns == changed_at
    assert sum(counted) == 120


def test_a_folder_with_another_corpus_is_refused(cluster, copy):
    other = SECTION.model_copy(update={"seed": 4})
    with pytest.raises(ConfigError, match=r"another corpus .* choose another folder"):
        corpus.make(str(copy), other)


def test_a_second_run_of_the_job_has_nothing_to_do(made, capsys):
    root, _ = made
    assert run_job("demo_corpus", Config, demo_corpus, [*ARGUMENTS, "--output.path", str(root)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_bad_settings_are_refused_all_at_once(tmp_path, capsys):
    arguments = [
        "--output.path",
        str(tmp_path),
        "--corpus.languages",
        "[en, xx]",
        "--corpus.seed",
        "-1",
        "--corpus.sed",
        "1",
    ]
    assert run_job("demo_corpus", Config, demo_corpus, arguments) == 2
    told = capsys.readouterr().err
    assert "corpus.languages: must be among en, es, fr, zh, found xx" in told
    assert "corpus.seed" in told
    assert "did you mean corpus.seed?" in told

"""The align job on a real Ray: every utterance accounted for, and nothing lost or doubled however it ends."""

import itertools
import random
import shutil
import time

import pyarrow as pa
import pytest

from cslm import cluster, contracts, storage
from cslm.apps import align
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.tracking import Run
from tests.data import aligning, networks, sounds

NUM_CLIPS, ROWS_A_FILE = 40, 5
NUM_FAULTS = len(aligning.FAULTS)


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenized")
    aligning.write_units(root, NUM_CLIPS, ROWS_A_FILE)
    return root


def run(units, output, **changes):
    return align.main(aligning.arguments(units, output, **changes))


def summary(output):
    return storage.read_json(str(output / "summary.json"))


def without_ray(monkeypatch):
    def refuse(section):
        raise AssertionError("Ray must not be needed")

    monkeypatch.setattr(cluster, "connect", refuse)


@pytest.fixture(scope="module")
def undisturbed(tokenized, ray_cluster, tracking_store, tmp_path_factory):
    """What all other ways must come to: the output of one run from beginning to end."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert run(tokenized, output) == 0
    return output


def test_every_utterance_is_aligned_or_rejected_with_its_reason(undisturbed, tokenized):
    alignments, rejects = aligning.tables(undisturbed)
    assert sorted(rejects.column("error").to_pylist()) == sorted(aligning.FAULTS)
    ids = alignments.column("id").to_pylist() + rejects.column("id").to_pylist()
    assert sorted(ids) == [f"u{seed:03d}" for seed in range(NUM_CLIPS)]
    units = {row["id"]: row for row in storage.read_table(str(tokenized / "units")).to_pylist()}
    for row in alignments.to_pylist():
        of_units = units[row["id"]]
        assert [row[name] for name in ("num_frames", "tokenizer", "language", "split")] == [
            of_units[name] for name in ("num_frames", "tokenizer", "language", "split")
        ]
        assert [word["text"] for word in row["words"]] == (
            ["some", "words", "Here"] if row["language"] == "en" else ["山水", "火木", "ok"]
        )
        frames = [frame for word in row["words"] for frame in (word["start_frame"], word["end_frame"])]
        assert all(one <= following for one, following in itertools.pairwise([0, *frames, row["num_frames"]]))
    # Each file of alignments is named as the file that its units lie in.
    made, given = (
        storage.list_files(str(path), ".parquet") for path in (undisturbed / "alignments", tokenized / "units")
    )
    assert [path.partition("language=")[2] for path in made] == [path.partition("language=")[2] for path in given]


def test_the_summary_and_the_tracking_run_tell_what_was_done(undisturbed, tracking_store):
    told = summary(undisturbed)
    assert told["rows"] == {
        "units": NUM_CLIPS, "asked": NUM_CLIPS, "accepted": NUM_CLIPS - NUM_FAULTS, "rejected": NUM_FAULTS,
        "reasons": dict.fromkeys(sorted(aligning.FAULTS), 1),
    }  # fmt: skip
    assert told["words"] == 3 * (NUM_CLIPS - NUM_FAULTS)
    assert told["aligner"]["kind"] == "learned"
    kept = storage.read_json(str(undisturbed / "aligner.json"))
    assert kept["latency_s"] == told["aligner"]["latency_s"]
    client = Run.attach({"run_id": told["mlflow_run_id"], "uri": tracking_store})._client
    found = client.get_run(told["mlflow_run_id"])
    assert found.data.metrics["data/accepted"] == NUM_CLIPS - NUM_FAULTS
    assert "samples.png" in [artifact.path for artifact in client.list_artifacts(told["mlflow_run_id"])]


def test_the_same_command_again_does_nothing_and_needs_no_ray(undisturbed, tokenized, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    output = shutil.copytree(undisturbed, home / "out")
    assert run(tokenized / "units", output) == 0
    assert "finished before, nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_steps_apart_and_a_given_latency_come_to_the_same_tables(undisturbed, tokenized, home, ray_cluster):
    latency_s = storage.read_json(str(undisturbed / "aligner.json"))["latency_s"]
    assert run(tokenized, home / "out", align__latency_s=latency_s, decode__apart="true") == 0
    same_tables(home / "out", undisturbed)


def test_only_the_answers_of_dialogues_of_one_split(tokenized, home, ray_cluster, capsys):
    def turn(role, audio):
        return {"role": role, "language": "en", "text": "t", "audio": audio}

    rows = [
        {"id": f"d{n}", "turns": [turn("user", "u001"), turn("assistant", audio)]}
        for n, audio in enumerate(("u002", "u003", "u010", None, "u002", "gone"))
    ]
    storage.write_table(contracts.load("dialogues").table(rows), str(home / "dialogues" / "part.parquet"))
    assert run(tokenized, home / "out", data__dialogues="dialogues", data__splits='["train"]') == 0
    alignments, rejects = aligning.tables(home / "out")
    assert alignments.column("id").to_pylist() == ["u002"]
    assert rejects.column("id").to_pylist() == ["u003"]
    told = summary(home / "out")["rows"]
    assert (told["asked"], told["accepted"], told["rejected"], told["without_units"]) == (2, 1, 1, 2)
    assert "2 of the answers in data.dialogues are not among these units" in capsys.readouterr().out


@pytest.mark.slow
def test_a_hugging_face_model_aligns_and_another_aligner_is_refused(tokenized, home, ray_cluster, monkeypatch, capsys):
    networks.ctc_folder(home / "ctc")
    settings = {"align__aligner": home / "ctc", "data__languages": '["en"]'}
    assert run(tokenized, home / "out", **settings) == 0
    alignments, _ = aligning.tables(home / "out")
    assert set(alignments.column("language").to_pylist()) == {"en"}
    assert summary(home / "out")["aligner"]["kind"] == "huggingface"
    without_ray(monkeypatch)
    assert run(tokenized, home / "out", data__languages='["en"]') == 2
    assert "must be the aligner" in capsys.readouterr().err


def test_units_that_do_not_know_what_is_said_need_an_aligner(tokenized, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    shutil.copytree(tokenized / "units", home / "tokenized" / "units")
    assert run("tokenized", "out") == 2
    assert "align.aligner: must be given" in capsys.readouterr().err
    KMeansTokenizer.fit([sounds.waveform(0)], KMeansSection(codebook_size=10)).save(
        str(home / "tokenized" / "tokenizer")
    )
    assert run("tokenized", "out") == 2
    assert "found one of kind kmeans" in capsys.readouterr().err
    assert run("nothing", "out") == 2
    assert "data.units: must be a units table" in capsys.readouterr().err


def test_too_many_rejects_fail_the_job_and_all_else_is_written(undisturbed, tokenized, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    output = shutil.copytree(undisturbed, home / "out")
    assert run(tokenized, output, max_reject_fraction=0.1) == 1
    assert "max_reject_fraction: at most 10.00%" in capsys.readouterr().err
    assert summary(output)["status"] == "failed"
    assert aligning.tables(output)[0].num_rows == NUM_CLIPS - NUM_FAULTS


def same_tables(output, undisturbed):
    found, expected = aligning.tables(output), aligning.tables(undisturbed)
    assert all(isinstance(table, pa.Table) for table in found)
    assert found[0].equals(expected[0])
    assert found[1].equals(expected[1])
    assert summary(output)["rows"] == summary(undisturbed)["rows"]


@pytest.mark.slow
def test_a_killed_job_goes_on_and_comes_to_the_same_tables(undisturbed, tokenized, home, ray_cluster):
    job = aligning.start(tokenized, home / "out", ray_cluster)
    while not list((home / "out" / "ledger").glob("*.json")):
        assert job.poll() is None
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert run(tokenized, home / "out") == 0
    same_tables(home / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whenever_it_is_killed_the_tables_are_the_same(seed, undisturbed, tokenized, home, ray_cluster):
    draw = random.Random(seed)
    job = aligning.start(tokenized, home / "out", ray_cluster, align__max_actors=draw.choice([1, 2]))
    moment_s = time.monotonic() + draw.uniform(0.3, 1.1) * summary(undisturbed)["wall_s"]
    while time.monotonic() < moment_s and job.poll() is None:
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert aligning.start(tokenized, home / "out", ray_cluster).wait() == 0
    same_tables(home / "out", undisturbed)

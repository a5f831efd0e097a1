"""The tokenize job on a real Ray: every row accounted for, and nothing lost or doubled however it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from cslm import cluster, contracts, storage
from cslm.apps import tokenize
from cslm.speech.tokenizer import UnitSequence, expand_repeats
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.tracking import Run
from tests.data import sounds

ROOT = Path(__file__).parents[2]
FSDD = ROOT.parent / "shared" / "data" / "fsdd"
NUM_CLIPS = 36


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Short recordings in two languages and splits, and a tokenizer fitted on some."""
    root = tmp_path_factory.mktemp("recordings")
    rows = []
    for seed in range(NUM_CLIPS):
        sounds.write(
            root / "audio" / f"{seed}.wav", seed, 0.5 + seed % 4 * 0.3, rate_hz=(8_000, 16_000, 22_050)[seed % 3]
        )
        language, split = ("en", "es")[seed % 2], "test" if seed % 9 == 0 else "train"
        row = {"id": f"u{seed:03d}", "audio": f"audio/{seed}.wav", "text": f"text {seed}", "language": language}
        rows.append(row | {"speaker": f"s{seed % 5}", "split": split})
    (root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fitted = KMeansTokenizer.fit([sounds.waveform(seed) for seed in range(6)], KMeansSection(codebook_size=30))
    fitted.save(str(root / "tokenizer"))
    return root


@pytest.fixture
def corpus(recordings, tmp_path):
    """A copy of the recordings that a test may change, which also is CSLM_HOME."""
    shutil.copytree(recordings, tmp_path, dirs_exist_ok=True)
    return tmp_path


def arguments(**changes):
    settings = {
        "corpus.manifest": "corpus.jsonl",
        "corpus.rows_per_shard": 5,
        "output.path": "out",
        "tokenizer.path": "tokenizer",
        "tokenizer.max_actors": 1,  # starting a second takes longer than its share of the work
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [part for key, value in settings.items() if value is not None for part in (f"--{key}", str(value))]


def run(**changes):
    return tokenize.main(arguments(**changes))


def summary(output):
    return storage.read_json(str(output / "summary.json"))


def units(output) -> pa.Table:
    table = storage.read_table(str(output / "units"))
    return contracts.load("units").check(table).sort_by("id")


def rejects(output):
    files = storage.list_files(str(output / "rejects"), ".parquet")
    return contracts.load("rejects").check(storage.read_table(files)).to_pylist() if files else []


def without_ray(monkeypatch):
    def refuse(section):
        raise AssertionError("Ray must not be needed")

    monkeypatch.setattr(cluster, "connect", refuse)


@pytest.fixture(scope="module")
def undisturbed(recordings, ray_cluster, tracking_store, tmp_path_factory):
    """What all other ways must come to: the output of one run from beginning to end."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSLM_HOME", str(root))
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert run(corpus__manifest=recordings / "corpus.jsonl", tokenizer__path=recordings / "tokenizer") == 0
    return root / "out"


def same_units(found, expected):
    """Equal but for the folder that the audio lies in."""
    return found.drop_columns(["source"]).equals(expected.drop_columns(["source"]))


def test_every_utterance_becomes_units_by_contract(undisturbed, recordings):
    table = units(undisturbed)
    assert table.column("id").to_pylist() == [f"u{seed:03d}" for seed in range(NUM_CLIPS)]
    tokenizer = KMeansTokenizer.load(str(recordings / "tokenizer"))
    for row in table.to_pylist():
        seed = int(row["id"][1:])
        assert row["tokenizer"] == tokenizer.fingerprint
        assert (row["text"], row["language"]) == (f"text {seed}", ("en", "es")[seed % 2])
        assert row["num_frames"] == sum(row["durations"]) == round(row["duration_s"] * 50 - 0.01) or seed % 3 == 2
        assert Path(row["source"]) == recordings / "audio" / f"{seed}.wav"
    # 16 kHz needs no resampling: the units are those of the samples themselves, rounded to 16 bits.
    [row] = [row for row in table.to_pylist() if row["id"] == "u001"]
    codes = expand_repeats(UnitSequence(row["units"], row["durations"]))
    assert (codes == tokenizer.encode([sounds.waveform(1, 0.8)])[0]).mean() > 0.9


def test_the_summary_accounts_for_every_row(undisturbed):
    told = summary(undisturbed)
    assert told["status"] == "done"
    assert told["rows"] == {"manifest": NUM_CLIPS, "accepted": NUM_CLIPS, "rejected": 0, "reasons": {}}
    table = units(undisturbed)
    assert told["units"] == sum(map(len, table.column("units").to_pylist()))
    assert told["frames"] == sum(table.column("num_frames").to_pylist())
    assert told["hours"] == pytest.approx(sum(table.column("duration_s").to_pylist()) / 3600, abs=1e-4)
    counted = {
        (language, split): place["utterances"]
        for language, places in told["by_language"].items()
        for split, place in places.items()
    }
    assert sum(counted.values()) == NUM_CLIPS
    assert counted["en", "test"] == 2


def test_the_tracking_run_holds_metrics_settings_and_a_picture(undisturbed, tracking_store):
    run_id = summary(undisturbed)["mlflow_run_id"]
    client = Run.attach({"run_id": run_id, "uri": tracking_store})._client
    recorded = client.get_run(run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.metrics["data/accepted"] == NUM_CLIPS
    assert recorded.data.metrics["throughput/audio_s_per_s"] > 0
    assert recorded.data.params["corpus.rows_per_shard"] == "5"
    assert recorded.inputs.dataset_inputs[0].dataset.name == "utterances"
    assert {"corpus.png", "samples.png", "config.yaml", "summary.json"} <= {
        one.path for one in client.list_artifacts(run_id)
    }


def test_the_same_command_again_does_nothing_and_needs_no_ray(undisturbed, recordings, home, monkeypatch, capsys):
    monkeypatch.setenv("CSLM_HOME", str(undisturbed.parent))
    without_ray(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    assert run(corpus__manifest=recordings / "corpus.jsonl", tokenizer__path=recordings / "tokenizer") == 0
    assert "finished before, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before


def test_units_of_another_tokenizer_are_refused(undisturbed, recordings, home, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CSLM_HOME", str(undisturbed.parent))
    without_ray(monkeypatch)
    other = KMeansTokenizer.fit([sounds.waveform(seed) for seed in range(6)], KMeansSection(codebook_size=31))
    other.save(str(tmp_path / "other"))
    manifest = recordings / "corpus.jsonl"
    assert run(corpus__manifest=manifest, tokenizer__path=tmp_path / "other") == 2
    assert "units of two tokenizers never mix" in capsys.readouterr().err
    assert run(corpus__manifest=manifest, tokenizer__path=None, tokenizer__kmeans__codebook_size=99) == 2
    assert "units of two tokenizers never mix" in capsys.readouterr().err


def test_a_tokenizer_that_was_changed_after_it_was_saved_is_refused(corpus, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    path = str(corpus / "tokenizer" / "speech_tokenizer.json")
    document = storage.read_json(path)
    storage.write_json(path, document | {"settings": document["settings"] | {"seed": 7}})
    assert run() == 1
    assert "the folder was changed after it was saved" in capsys.readouterr().err
    assert not (corpus / "out" / "tokenizer").exists()


def test_steps_apart_and_small_pieces_come_to_the_same_table(undisturbed, corpus, home, ray_cluster):
    assert run(decode__apart="true", decode__piece_s=1.0, tokenizer__max_actors=2) == 0
    assert same_units(units(corpus / "out"), units(undisturbed))
    assert len(storage.list_files(str(corpus / "out" / "units"))) > len(storage.list_files(str(undisturbed / "units")))
    assert summary(corpus / "out")["units"] == summary(undisturbed)["units"]


def test_broken_recordings_go_to_rejects_and_the_rest_to_units(undisturbed, corpus, home, ray_cluster, capsys):
    (corpus / "audio" / "3.wav").unlink()
    (corpus / "audio" / "4.wav").write_bytes(b"")
    (corpus / "audio" / "5.wav").write_text("This is a text in a file named .wav\n")
    with (corpus / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "u000", "audio": "audio/7.wav", "language": "en"}) + "\n")
    # 4 of 37 rows are more than the 5 % that are allowed: the job fails, when all else is written.
    assert run() == 1
    assert "max_reject_fraction: at most 5.00% of the rows may be rejected, found 10.81%" in capsys.readouterr().err
    found = {row["id"]: (row["stage"], row["error"]) for row in rejects(corpus / "out")}
    assert found == {
        "u003": ("audio", "missing"),
        "u004": ("audio", "empty_file"),
        "u005": ("audio", "not_audio"),
        "u000": ("manifest", "duplicate_id"),
    }
    taken = units(corpus / "out").column("id").to_pylist()
    assert taken == [f"u{seed:03d}" for seed in range(NUM_CLIPS) if seed not in (3, 4, 5)]
    told = summary(corpus / "out")
    assert told["status"] == "failed"
    assert told["rows"]["accepted"] + told["rows"]["rejected"] == told["rows"]["manifest"] == NUM_CLIPS + 1
    assert told["rows"]["reasons"] == {"missing": 1, "empty_file": 1, "not_audio": 1, "duplicate_id": 1}
    # With the audio mended, only the shards with rejected rows are done again.
    for seed in (3, 4, 5):
        shutil.copy(undisturbed_audio(undisturbed, seed), corpus / "audio" / f"{seed}.wav")
    assert run(retry_rejected="true") == 0
    assert same_units(units(corpus / "out"), units(undisturbed))
    assert [row["id"] for row in rejects(corpus / "out")] == ["u000"]


def undisturbed_audio(undisturbed, seed):
    [source] = [row["source"] for row in units(undisturbed).to_pylist() if row["id"] == f"u{seed:03d}"]
    return source


def test_a_killed_job_goes_on_and_comes_to_the_same_table(undisturbed, corpus, home, ray_cluster, tracking_store):
    # A pipe that nobody writes to holds the job at one shard, so that it is killed within the work, wherever it runs.
    held = corpus / "audio" / "20.wav"
    content = held.read_bytes()
    held.unlink()
    os.mkfifo(held)
    command = [sys.executable, "-P", str(ROOT / "jobs" / "tokenize.py"), *arguments()]
    job = subprocess.Popen(
        [*command, "--cluster.address", ray_cluster],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    give_up_s = time.monotonic() + 240
    while not (finished := ledger(corpus / "out")):
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < give_up_s, "no shard was finished"
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    finished = ledger(corpus / "out")
    assert 0 < len(finished) < len(ledger(undisturbed))
    held.unlink()
    held.write_bytes(content)
    assert run() == 0
    assert same_units(units(corpus / "out"), units(undisturbed))
    # What was finished was not done again.
    assert finished.items() <= ledger(corpus / "out").items()
    assert summary(corpus / "out")["rows"] == summary(undisturbed)["rows"]
    # It went on as the same tracking run.
    client = Run.attach({"run_id": summary(corpus / "out")["mlflow_run_id"], "uri": tracking_store})._client
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == "cslm"]
    assert len(client.search_runs([experiment], f"tags.`cslm.output` = '{corpus}/out'")) == 1


def test_a_corpus_that_grew_costs_only_what_is_new(undisturbed, recordings, home, ray_cluster):
    shutil.copytree(undisturbed, home / "out")
    rows = [json.loads(line) for line in (recordings / "corpus.jsonl").read_text().splitlines()]
    sounds.write(home / "new.wav", 99)
    rows = [row | {"audio": str(recordings / row["audio"])} for row in rows]
    rows.append({"id": "new", "audio": "new.wav", "language": "es", "split": "train"})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = ledger(home / "out")
    assert run(tokenizer__path=recordings / "tokenizer") == 0
    grown = units(home / "out").to_pylist()
    assert [row for row in grown if row["id"] != "new"] == units(undisturbed).to_pylist()
    assert len(grown) == NUM_CLIPS + 1
    # Full shards are what they were; only the last one of the new row's language and split is another.
    redone = [name for name, inode in before.items() if ledger(home / "out").get(name) != inode]
    assert len(redone) == 1
    assert len(before) > 5


def ledger(output):
    return {path.name: path.stat().st_ino for path in (output / "ledger").glob("*.json")}


def test_a_storage_that_fails_ends_the_job_and_rejects_nothing(corpus, home, ray_cluster, capsys):
    with (corpus / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "x", "audio": "/proc/self/mem", "language": "en"}) + "\n")
    assert run() == 1
    told = capsys.readouterr().err
    assert "storage must answer" in told
    assert "/proc/self/mem" in told
    assert "Traceback" not in told
    assert rejects(corpus / "out") == []


def test_a_corpus_without_a_row_to_take_is_refused(corpus, home, monkeypatch, capsys):
    without_ray(monkeypatch)
    (corpus / "corpus.jsonl").write_text(json.dumps({"id": "a", "audio": "a.wav", "language": "?"}) + "\n")
    assert run() == 2
    assert "found 1 rows and none of them can" in capsys.readouterr().err
    assert rejects(corpus / "out")[0]["error"] == "bad_language"


def test_a_dry_run_says_what_to_expect_and_writes_no_units(corpus, home, ray_cluster, capsys):
    assert run(dry_run=12, prices__cpu_hour=1.5) == 0
    told = storage.read_json(str(corpus / "out" / "preview.json"))
    assert told["rows"]["manifest"] == told["rows"]["accepted"] == NUM_CLIPS
    assert 10 <= told["rows"]["sampled"] <= 14
    assert told["cost"] == pytest.approx(1.5 * told["cpu_hours"])
    assert not (corpus / "out" / "units").exists()
    assert "about 36 of 36 rows would be taken" in capsys.readouterr().out


def test_bad_settings_are_told_all_at_once(home, capsys):
    assert run(output__path=None, audio__min_s=-1, tokenizer__device="tpu", corpus__rows="3") == 2
    told = capsys.readouterr().err
    assert all(path in told for path in ("output.path", "audio.min_s", "tokenizer.device", "corpus.rows"))


def test_recordings_of_people_in_a_folder_become_units_of_a_tokenizer_fitted_on_them(home, ray_cluster):
    if not FSDD.is_dir():
        pytest.skip(f"no recordings of people at {FSDD}")
    people = home / "people"
    people.mkdir()
    rows = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text().splitlines()]
    # Every speaker saying every digit, a few times.
    chosen = [row for row in rows if row["id"].rpartition("_")[2] in ("1", "4", "5", "6")]
    assert len(chosen) == 200
    for row in chosen:
        (people / f"{row['id']}.wav").symlink_to(FSDD / row["audio"])
    fit = {"tokenizer__path": "fitted", "tokenizer__kmeans__codebook_size": 100, "tokenizer__kmeans__fit_audio_s": 30}
    assert run(corpus__manifest="people", corpus__language="en", corpus__rows_per_shard=100, **fit) == 0
    told = summary(home / "out")
    assert told["rows"] == {"manifest": 200, "accepted": 200, "rejected": 0, "reasons": {}}
    assert told["tokenizer"]["codebook_size"] == 100
    # The fitted tokenizer lies where it was asked for and beside the units, and is the same.
    assert KMeansTokenizer.load(str(home / "fitted")).fingerprint == told["tokenizer"]["fingerprint"]
    assert KMeansTokenizer.load(str(home / "out" / "tokenizer")).fingerprint == told["tokenizer"]["fingerprint"]
    # The same digit by the same speaker is nearer than another digit: units carry what is said.
    counts = {row["id"]: set(row["units"]) for row in units(home / "out").to_pylist()}
    same, other = [], []
    for speaker in ("george", "jackson", "theo"):
        for digit in range(10):
            one, again = counts[f"fsdd-{digit}_{speaker}_4"], counts[f"fsdd-{digit}_{speaker}_5"]
            different = counts[f"fsdd-{(digit + 1) % 10}_{speaker}_5"]
            same.append(len(one & again) / len(one | again))
            other.append(len(one & different) / len(one | different))
    assert sum(same) / len(same) > 1.5 * sum(other) / len(other)

"""The ingest job from command line to tables, and the tables on to training examples."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa

from cslm import contracts, storage
from cslm.apps import ingest
from cslm.data import pack, sources
from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer
from cslm.lm.model import ModelSection
from cslm.tracking import Run
from tests.data import object_store, tables

ROOT = Path(__file__).parents[2]
LANGUAGES = ["--languages.source", "en", "--languages.target", "es"]


def write_pairs(folder, num_rows=40, name="corpus"):
    """Line pairs with one row of each of six faults among the first."""
    source = [f"Sentence number {number} of the corpus." for number in range(num_rows)]
    target = [f"Frase número {number} del corpus." for number in range(num_rows)]
    source[1], target[1] = "", "Vacía."
    source[2] = target[2] = "The same."
    source[3], target[3] = source[0], target[0]
    source[4] = "Short."
    target[4] = "Una frase que dice mucho más de lo que dice la otra, y que por eso no puede ser su traducción."
    source[5], target[5] = "12/12/2012!!!", "Fecha."
    target[6] = "Fra\u200bse nu\u0301mero  6."
    for language, lines in (("en", source), ("es", target)):
        storage.write_text(storage.join(str(folder), f"{name}.{language}"), "\n".join(lines) + "\n")
    return source, target


REASONS = {"duplicate_pair": 1, "empty": 1, "identical": 1, "length_ratio": 1, "not_text": 1}


def run(*arguments, path="corpus", output="out"):
    return ingest.main(["--source.path", str(path), "--output.path", str(output), *LANGUAGES, *map(str, arguments)])


def summary(output):
    return storage.read_json(storage.join(str(output), "summary.json"))


def table(output, name="parallel_text") -> pa.Table:
    found = storage.read_table(storage.join(str(output), name))
    return contracts.load(name).check(found)


def test_line_pairs_become_a_table_and_rejects_with_every_row_told_of(home, tracking_store, capsys):
    source, target = write_pairs(home)
    assert run("--splits.dev_fraction", 0.2, "--rows_per_file", 10, "--source.name", "opus") == 0
    rows = table(home / "out").to_pylist()
    kept = [number for number in range(40) if number not in range(1, 6)]
    assert [row["id"] for row in rows] == [f"opus-{number + 1}" for number in kept]
    assert [row["source"] for row in rows] == [source[number] for number in kept]
    assert [row["target"] for row in rows if row["id"] != "opus-7"] == [target[n] for n in kept if n != 6]
    assert rows[1]["target"] == "Frase número 6."
    assert {row["split"] for row in rows} == {"train", "dev"}
    assert len(storage.list_files(str(home / "out" / "parallel_text"))) == 4
    rejects = table(home / "out", "rejects").to_pylist()
    assert [(row["id"], row["error"]) for row in rejects] == [
        ("#2", "empty"),
        ("#3", "identical"),
        ("#5", "length_ratio"),
        ("#6", "not_text"),
        ("opus-4", "duplicate_pair"),
    ]
    told = summary(home / "out")
    assert told["status"] == "done"
    assert told["rows"] == {"read": 40, "accepted": 35, "rejected": 5, "reasons": REASONS}
    assert told["changes"] == {"invisible_characters": 1, "nfc": 1, "spaces": 1}
    assert sum(split["rows"] for split in told["by_language"]["en-es"].values()) == told["written"] == 35
    screen = capsys.readouterr().out
    assert "40 rows = 35 accepted + 5 rejected (duplicate_pair 1, empty 1," in screen
    recorded = Run.attach({"run_id": told["mlflow_run_id"], "uri": tracking_store})._client.get_run(
        told["mlflow_run_id"]
    )
    assert recorded.info.status == "FINISHED"
    assert recorded.data.metrics["data/accepted"] == 35
    assert recorded.data.metrics["data/rejected/empty"] == 1
    assert recorded.data.metrics["data/changed/nfc"] == 1
    assert recorded.data.metrics["throughput/rows_per_s"] > 0
    assert recorded.inputs.dataset_inputs[0].dataset.name == "parallel_text"
    before = {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*.parquet")}
    assert run("--splits.dev_fraction", 0.2, "--rows_per_file", 10, "--source.name", "opus") == 0
    assert "finished before, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*.parquet")} == before


def test_a_dry_run_tells_yield_reasons_and_samples_and_writes_nothing(home, capsys):
    write_pairs(home)
    assert run("--dry_run", 30, "--languages.both_directions", "true") == 0
    screen = capsys.readouterr().out
    assert "30 rows = 25 accepted + 5 rejected" in screen
    assert "empty, for example row 2: source must hold text, found none" in screen
    assert screen.count("  en: Sentence number ") == 5
    assert "dry run: no table was written" in screen
    assert sorted(path.name for path in (home / "out").rglob("*")) == ["config.yaml"]


def test_too_many_rejects_fail_the_job_after_writing_and_a_higher_limit_keeps_what_is_written(
    home, capsys, monkeypatch
):
    write_pairs(home)
    assert run("--max_reject_fraction", 0.1) == 1
    assert "at most 10.00% of the rows may be rejected, found 12.50%" in capsys.readouterr().err
    assert summary(home / "out")["status"] == "failed"
    assert table(home / "out").num_rows == 35

    def refuse(*arguments):
        raise AssertionError("the corpus must not be read again")

    monkeypatch.setattr(ingest.formats, "read", refuse)
    assert run("--max_reject_fraction", 0.2) == 0
    assert summary(home / "out")["rows"]["reasons"] == REASONS


def test_a_corpus_that_changed_replaces_the_tables_and_one_that_is_broken_does_not(home, capsys):
    write_pairs(home)
    assert run() == 0
    (home / "corpus.es").write_text("Una línea.\n")
    assert run() == 2
    assert "as many lines in both files, found 40 in" in capsys.readouterr().err
    assert table(home / "out").num_rows == 35
    write_pairs(home, 20)
    assert run() == 0
    assert table(home / "out").num_rows == 15
    assert not list((home / "out").glob("_staging*"))


def test_nothing_to_read_and_bad_settings_are_told(home, capsys):
    assert run(path="absent") == 2
    assert "source.path: must be a file or a folder" in capsys.readouterr().err
    storage.write_text(str(home / "empty.tsv"), "source\ttarget\n")
    assert run(path="empty.tsv") == 2
    assert "source.path: must hold rows, found none" in capsys.readouterr().err
    assert run("--splits.dev_fraction", 0.7, "--splits.test_fraction", 0.7, "--filters.min_chars", 0) == 2
    told = capsys.readouterr().err
    assert "dev_fraction and test_fraction must be at most 1 together" in told
    assert "filters.min_chars" in told


def test_a_job_that_was_killed_comes_to_the_same_tables(home):
    write_pairs(home, 20_000)
    options = ["--rows_per_file", "500"]
    assert run(*options, output="undisturbed") == 0
    command = [
        sys.executable,
        "-P",
        str(ROOT / "jobs" / "ingest.py"),
        "--source.path",
        "corpus",
        "--output.path",
        "out",
    ]
    for num_files in (1, 20):
        job = subprocess.Popen([*command, *LANGUAGES, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        give_up_s = time.monotonic() + 120
        while len(list((home / "out").glob("_staging-*/parallel_text/part-*.parquet"))) < num_files:
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < give_up_s, "no file was written"
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        assert job.returncode == -signal.SIGKILL
        assert not (home / "out" / "parallel_text").exists()
        assert not (home / "out" / "summary.json").exists()
    assert run(*options) == 0
    for name in ("parallel_text", "rejects"):
        assert table(home / "out", name).equals(table(home / "undisturbed", name))
        files = [sorted(os.listdir(home / output / name)) for output in ("out", "undisturbed")]
        assert files[0] == files[1]
    assert summary(home / "out")["rows"] == summary(home / "undisturbed")["rows"]
    assert not list((home / "out").glob("_staging*"))


def test_an_object_store_holds_corpus_and_tables(home, monkeypatch, capsys):
    source, target = write_pairs(home)
    assert run("--rows_per_file", 10) == 0
    with object_store.running():
        bucket = f"s3://{object_store.BUCKET}/ingest"
        for language, lines in (("en", source), ("es", target)):
            data = gzip.compress("\n".join(lines).encode())
            storage.write_bytes(f"{bucket}/texts/corpus.{language}.gz", data)
        real, calls = storage.move, []

        def fail_once(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise OSError("the store does not answer")
            real(*arguments)

        monkeypatch.setattr(storage, "move", fail_once)
        options = {"path": f"{bucket}/texts/corpus", "output": f"{bucket}/out"}
        assert run("--rows_per_file", 10, **options) == 1
        assert "the store does not answer" in capsys.readouterr().err
        assert run("--rows_per_file", 10, **options) == 0
        assert "the tables are made already" in capsys.readouterr().out
        assert table(f"{bucket}/out").equals(table(home / "out"))
        names = [storage.name(file) for file in storage.list_files(f"{bucket}/out", ".parquet")]
        assert names == [f"part-{number:05d}.parquet" for number in (0, 1, 2, 3, 0)]
        assert summary(f"{bucket}/out")["rows"] == summary(home / "out")["rows"]


def test_the_tables_become_training_examples_with_all_turns(home, ray_cluster):
    """Alpaca, ShareGPT and pairs of both directions, packed as pretrain and sft pack them."""
    tables.write(home)
    lm_model.prepare(
        str(home / "start"),
        ModelSection(shape="micro", text_vocab_size=320),
        texts=lambda: tables.WORDS * 3,
        num_units=tables.NUM_UNITS,
        unit_tokenizer=tables.TOKENIZER.fingerprint,
        frame_rate_hz=50.0,
        codebook=lambda: tables.TOKENIZER.codebook,
        seed=0,
    )
    write_pairs(home)
    assert run("--languages.both_directions", "true", output="pairs") == 0
    alpaca = [{"instruction": f"Say {word}.", "input": "in capitals", "output": word.upper()} for word in tables.WORDS]
    turns = [("system", "Be brief."), ("human", "one?"), ("gpt", "two."), ("human", "three?"), ("gpt", "four.")]
    share = [{"conversations": [{"from": who, "value": text} for who, text in [*turns, ("human", "five?")]]}]
    storage.write_text(str(home / "alpaca.json"), json.dumps(alpaca))
    storage.write_text(str(home / "chat.jsonl"), "".join(json.dumps(row) + "\n" for row in share))
    for name in ("alpaca.json", "chat.jsonl"):
        assert run("--languages.target", "en", path=name, output=name.partition(".")[0]) == 0
    # A table may have the files of several corpora.
    shutil.copy(home / "alpaca" / "dialogues" / "part-00000.parquet", home / "chat" / "dialogues" / "alpaca.parquet")
    section = sources.DataSection(
        units=str(home / "units"),
        parallel_text=str(home / "pairs" / "parallel_text"),
        dialogues=str(home / "chat" / "dialogues"),
        row_length=200,
    )
    stats = pack.build(section, ("mt", "text"), str(home / "start"), str(home / "packed"), seed=0)
    counts = {task: count["examples"] for task, count in stats["tasks"].items()}
    assert counts == {"mt/en-es": 35, "mt/es-en": 35, "text/en-en": len(tables.WORDS) + 1}
    assert stats["set_aside"] == {}
    tokenizer = text_tokenizer.load(str(home / "start"))
    examples = {}
    for row in storage.read_table(str(home / "packed")).to_pylist():
        end = 0
        for source, length in zip(row["segment_sources"], row["segment_lengths"], strict=True):
            start, end = end, end + length
            ids, mask = row["input_ids"][start:end], row["loss_mask"][start:end]
            learned = [token for token, target in zip(ids, mask, strict=True) if target]
            examples[source] = tokenizer.decode(ids), tokenizer.decode(learned)
    text, learned = examples["chat-1"]
    places = [text.find(part) for part in ("Be brief. one?", "two.", "three?", "four.")]
    assert places == sorted(places)
    assert places[0] > 0
    assert "five?" not in text
    assert learned == "two.<|eot_id|>four.<|eot_id|>"
    text, learned = examples["alpaca-2"]
    assert f"Say {tables.WORDS[1]}. in capitals" in text
    assert learned == f"{tables.WORDS[1].upper()}<|eot_id|>"
    assert examples["corpus-1#reversed"][1] == "Sentence number 0 of the corpus.<|eot_id|>"

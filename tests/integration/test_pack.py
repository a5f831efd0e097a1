"""Packed rows as Ray Data builds them: nothing lost, nothing twice, and the same whoever did the work."""

import shutil

import pytest
import ray.data
from ray.data import ExecutionResources

from cslm import contracts, storage
from cslm.data import pack, sources
from cslm.data.feed import PackedFeed
from cslm.errors import CheckpointError, ConfigError
from cslm.lm import model as lm_model
from cslm.lm import prompts, vocabulary
from cslm.lm.model import ModelSection
from tests.data import tables

TASKS = ("asr", "tts", "mt", "text", "answer")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Small tables and a start model whose vocabulary has their units."""
    root = tmp_path_factory.mktemp("corpus")
    tables.write(root)
    lm_model.prepare(
        str(root / "start"),
        ModelSection(shape="micro", text_vocab_size=320),
        texts=lambda: tables.WORDS * 3,
        num_units=tables.NUM_UNITS,
        unit_tokenizer=tables.TOKENIZER.fingerprint,
        frame_rate_hz=50.0,
        codebook=lambda: tables.TOKENIZER.codebook,
        seed=0,
    )
    return root


@pytest.fixture(autouse=True)
def by_workers(monkeypatch):
    """Tables as small as these would be packed by this process."""
    monkeypatch.setattr(pack, "_EXAMPLES_HERE", -1)
    monkeypatch.setattr(pack, "_FILES_HERE", -1)


def section(root, **changes):
    inputs = {name: str(root / name) for name in ("units", "parallel_text", "dialogues")}
    return sources.DataSection(**{**inputs, "row_length": 200, "chain": {"form": "full"}, **changes})


def build(root, name, tasks=TASKS, **changes):
    output = str(root / name)
    return pack.build(section(root, **changes), tasks, str(root / "start"), output, seed=0), output


def examples_of(output):
    table = contracts.load("packed").check(storage.read_table(output))
    return [
        pair for row in table.to_pylist() for pair in zip(row["segment_tasks"], row["segment_sources"], strict=True)
    ]


def test_every_example_of_the_split_lies_in_one_row(corpus, ray_cluster):
    stats, output = build(corpus, "all")
    found = examples_of(output)
    train = [number for number in range(120) if number % 10]
    expected = {(task, f"u{n}") for task in ("asr/en", "tts/en") for n in train} | {
        ("mt/en-es", f"p{n}") for n in train
    }
    expected |= {("answer/en-en" if n % 3 else "text/en-en", f"d{n}") for n in train}
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected
    assert sum(task["examples"] for task in stats["tasks"].values()) == len(expected)
    assert stats["efficiency"] > 0.9
    assert stats["set_aside"] == {}
    for row in storage.read_table(output).to_pylist():
        assert sum(row["segment_lengths"]) == len(row["input_ids"]) == len(row["loss_mask"]) <= 200


def test_the_rows_do_not_depend_on_how_the_work_was_shared(corpus, ray_cluster, monkeypatch):
    _, one = build(corpus, "together", ("asr", "mt"))
    monkeypatch.setattr(pack, "_CHUNK_ROWS", (7, 7))
    _, other = build(corpus, "apart", ("asr", "mt"))
    assert storage.read_table(one).equals(storage.read_table(other))


@pytest.mark.parametrize("cpus", [1, 4])
def test_one_worker_and_four_build_what_this_process_does(corpus, ray_cluster, monkeypatch, cpus):
    with monkeypatch.context() as here:
        here.setattr(pack, "_EXAMPLES_HERE", 10_000)
        _, wanted = build(corpus, "whole", TASKS)
    monkeypatch.setattr(pack, "_CHUNK_ROWS", (11, 11))
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "resource_limits", ExecutionResources(cpu=cpus))
    _, found = build(corpus, f"by-{cpus}", TASKS)
    assert storage.read_table(found).equals(storage.read_table(wanted))


def test_the_rows_carry_the_vocabulary_they_were_made_for(corpus, ray_cluster):
    stats, output = build(corpus, "marked", ("mt",))
    layout = vocabulary.load(str(corpus / "start"))
    assert stats["vocabulary"] == layout.hash
    for file in storage.list_files(output, ".parquet"):
        assert storage.parquet_schema(file)[0].metadata[b"cslm.vocabulary"].decode() == layout.hash


def test_an_interrupted_build_goes_on_and_comes_to_the_same(corpus, ray_cluster, monkeypatch):
    _, wanted = build(corpus, "undisturbed", ("asr", "answer"))
    whole = pack._Work.pack

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack._Work, "pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(corpus, "interrupted", ("asr", "answer"))
    output = corpus / "interrupted"
    assert not (output / pack.STATS).exists()
    waiting = {path: path.stat().st_mtime_ns for path in (output / "_examples").iterdir()}
    lost = min(waiting)
    lost.unlink()

    def watched(self):
        seen.update({path: path.stat().st_mtime_ns for path in (output / "_examples").iterdir()})
        return whole(self)

    seen = {}
    monkeypatch.setattr(pack._Work, "pack", watched)
    build(corpus, "interrupted", ("asr", "answer"))
    assert seen.keys() == waiting.keys()
    assert {path for path in seen if seen[path] != waiting[path]} == {lost}
    assert storage.read_table(str(output)).equals(storage.read_table(wanted))
    assert sorted(path.name for path in output.iterdir()) == ["bucket-00000.parquet", "stats.json"]


def test_what_is_left_of_a_build_with_other_settings_is_not_used(corpus, ray_cluster, monkeypatch):
    _, wanted = build(corpus, "wanted", ("asr",), row_length=150)
    with monkeypatch.context() as patch:
        patch.setattr(pack._Work, "pack", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(corpus, "left", ("asr",))
    _, found = build(corpus, "left", ("asr",), row_length=150)
    assert storage.read_table(found).equals(storage.read_table(wanted))


def test_rows_are_built_once(corpus, ray_cluster):
    _, output = build(corpus, "once", ("mt",))
    before = storage.listing_digest(output)
    build(corpus, "once", ("mt",))
    assert storage.listing_digest(output) == before
    build(corpus, "once", ("mt",), row_length=150)
    assert storage.listing_digest(output) != before


def test_tables_written_again_elsewhere_are_learned_in_the_same_order(corpus, ray_cluster, tmp_path):
    for name in ("units", "parallel_text", "dialogues"):
        shutil.copytree(corpus / name, tmp_path / name, copy_function=shutil.copyfile)
    again = {name: str(tmp_path / name) for name in ("units", "parallel_text", "dialogues")}
    (stats, one), (other_stats, other) = build(corpus, "once"), build(corpus, "again", **again)
    assert stats["fingerprint"] != other_stats["fingerprint"]

    def learned(folder):
        feed = PackedFeed(
            folder, row_length=200, rows_per_step=4, micro_batch_rows=4, rank=0, world_size=1, seed=0, pad_id=0,
            vocabulary=stats["vocabulary"], window_tokens=800,
        )  # fmt: skip
        return [batch.input_ids.tolist() for step in range(20) for batch in feed.batches(step)]

    assert learned(one) == learned(other)


def test_weights_take_a_part_or_repeat(corpus, ray_cluster):
    weights = {"asr": 0.5, "mt": 2.0, "tts": 0.0}
    stats, _ = build(corpus, "weighted", ("asr", "mt", "tts"), weights=weights)
    assert set(stats["tasks"]) == {"asr/en", "mt/en-es"}
    assert stats["tasks"]["mt/en-es"]["examples"] == 2 * 108
    assert 30 < stats["tasks"]["asr/en"]["examples"] < 78


def test_what_does_not_fit_is_counted_not_cut(corpus, ray_cluster):
    _, whole = build(corpus, "long", ("asr",))
    rows = storage.read_table(whole).column("segment_lengths").to_pylist()
    lengths = sorted(length for row in rows for length in row)
    middle = lengths[len(lengths) // 2]
    stats, output = build(corpus, "short", ("asr",), row_length=middle)
    too_long = sum(length > middle for length in lengths)
    assert stats["set_aside"] == {"asr/en": {"too_long": too_long}}
    assert too_long > 0
    assert too_long + len(examples_of(output)) == 108


def test_rows_too_short_for_any_example_are_refused(corpus, ray_cluster):
    with pytest.raises(ConfigError, match="108 too_long of asr/en"):
        build(corpus, "shortest", ("asr",), row_length=20)


def test_tables_without_examples_are_refused(corpus, ray_cluster):
    with pytest.raises(ConfigError, match="found none"):
        build(corpus, "none", ("asr",), split="nothing")


@pytest.fixture(scope="module")
def spoken(corpus, tmp_path_factory):
    """Translations that are spoken, one by an utterance that is nowhere, and alignments of all utterances but u1."""
    root = tmp_path_factory.mktemp("spoken")
    units = storage.read_table(str(corpus / "units" / "units")).to_pylist()
    texts = {row["id"]: row["text"] for row in units}
    pairs = [
        {
            "id": f"p{number}",
            **{"source_language": "en", "target_language": "es", "source": "one", "split": "train"},
            "target": texts[f"u{number + 1}"],
            "source_audio": f"u{number}" if number != 5 else "nowhere",
            "target_audio": f"u{number + 1}" if number % 2 == 0 else None,
        }
        for number in range(20)
    ]
    storage.write_table(contracts.load("parallel_text").table(pairs), str(root / "parallel_text" / "part-0.parquet"))
    align(units, root / "align", tables.TOKENIZER.fingerprint)
    return root


def align(units, folder, tokenizer):
    for split in ("train", "test"):
        rows = [
            {
                "id": row["id"],
                "words": [
                    {"text": word, "start_frame": 5 * place, "end_frame": 5 * place + 5, "score": -0.1}
                    for place, word in enumerate(row["text"].split())
                ],
                **{"num_frames": row["num_frames"], "score": -0.1, "aligner": "a", "tokenizer": tokenizer},
                **{"language": "en", "split": split},
            }
            for row in units
            if row["split"] == split and row["id"] != "u1"
        ]
        table = contracts.load("alignments").table(rows).drop_columns(["language", "split"])
        storage.write_table(
            table, str(folder / "alignments" / "language=en" / f"split={split}" / "shard-00000.parquet")
        )


def test_spoken_rows_get_their_utterances_and_what_lacks_them_is_counted(corpus, spoken, ray_cluster, monkeypatch):
    """With side files of few utterances and chunks of few rows, so that every row's come from several."""
    monkeypatch.setattr(pack, "_CHUNK_ROWS", (9, 9))
    changes = {
        "parallel_text": str(spoken / "parallel_text"),
        "alignments": str(spoken / "align"),
        "chain": {"form": "interleaved", "chunk_words": 1},
        "weights": {"spans": 1, "st": 1, "s2st": 1},
    }
    stats, output = build(corpus, "spoken", ("spans", "st", "s2st", "answer"), **changes)
    found = examples_of(output)
    assert len(found) == len(set(found))
    train = [number for number in range(120) if number % 10]
    assert {source for task, source in found if task == "spans/en"} == {f"u{n}" for n in train if n != 1}
    assert {source for task, source in found if task == "st/en-es"} == {f"p{n}" for n in range(20) if n != 5}
    # p0 is answered by the utterance that is not aligned.
    assert {source for task, source in found if task == "s2st/en-es"} == {f"p{n}" for n in range(2, 20, 2)}
    assert stats["set_aside"] == {
        "s2st/en-es": {"not_aligned": 1},
        "spans/en": {"not_aligned": 1},
        "st/en-es": {"no_units": 1},
    }
    by_source = {}
    layout = vocabulary.load(str(corpus / "start"))
    for row in storage.read_table(output).to_pylist():
        start = 0
        for task, source, length in zip(
            row["segment_tasks"], row["segment_sources"], row["segment_lengths"], strict=True
        ):
            by_source[task, source] = layout.units(row["input_ids"][start : start + length]).tolist()
            start += length
    units = {row["id"]: row["units"] for row in storage.read_table(str(corpus / "units" / "units")).to_pylist()}
    assert all(by_source["st/en-es", f"p{n}"] == units[f"u{n}"] for n in range(20) if n != 5)
    assert all(by_source["s2st/en-es", f"p{n}"] == units[f"u{n}"] + units[f"u{n + 1}"] for n in range(2, 20, 2))


def test_alignments_in_frames_of_another_tokenizer_are_refused_with_both(corpus, spoken, ray_cluster, tmp_path):
    units = storage.read_table(str(corpus / "units" / "units")).to_pylist()
    align(units, tmp_path / "align", "e" * 16)
    with pytest.raises(CheckpointError) as refused:
        build(corpus, "foreign", ("spans",), alignments=str(tmp_path / "align"), weights={"spans": 1})
    assert "e" * 16 in str(refused.value)
    assert tables.TOKENIZER.fingerprint in str(refused.value)


def test_units_of_two_tokenizers_are_refused_with_both(corpus, ray_cluster, tmp_path):
    tables.write(tmp_path, num_utterances=20)
    (file,) = storage.list_files(str(tmp_path / "units" / "units" / "language=en" / "split=train"), ".parquet")
    table = storage.read_rows(file, storage.parquet_schema(file)[0].names)
    other = table.set_column(table.column_names.index("tokenizer"), "tokenizer", [["f" * 16] * table.num_rows])
    storage.write_table(other, file.replace("00000", "00001"))
    with pytest.raises(ConfigError, match="f" * 16):
        pack.count(sources.DataSection(units=str(tmp_path / "units")), str(tmp_path / "sizes.json"))


def test_counts_are_taken_once_and_again_when_a_table_changes(corpus, ray_cluster, tmp_path):
    cache = tmp_path / "sizes.json"
    counted = pack.count(section(corpus), str(cache))
    assert {name: size.examples for name, size in counted.sizes.items()} == {
        **{f"{task}/en": 108 for task in ("asr", "tts", "spans")},
        **{"mt/en-es": 108, "answer/en-en": 72, "text/en-en": 36},
    }
    units = storage.read_table(str(corpus / "units" / "units")).to_pylist()
    hours = sum(row["num_frames"] for row in units if row["split"] == "train") / 50 / 3600
    assert counted.sizes["asr/en"].size == pytest.approx(hours)
    pairs = storage.read_table(str(corpus / "parallel_text")).to_pylist()
    characters = sum(len(row["source"] + row["target"]) for row in pairs if row["split"] == "train")
    assert counted.sizes["mt/en-es"].size == characters
    before = cache.stat().st_mtime_ns
    assert pack.count(section(corpus), str(cache)) == counted
    assert cache.stat().st_mtime_ns == before
    assert pack.count(section(corpus, split="test"), str(cache)).sizes["asr/en"].examples == 12


def test_a_bounded_group_says_so_and_unknown_groups_are_refused(corpus, ray_cluster):
    mixture = {"groups": {"asr/en": 3}, "max_repeats": 2}
    stats, _ = build(corpus, "bounded", ("asr", "mt"), mixture=mixture)
    assert stats["tasks"]["asr/en"]["bounded_from"] == 3
    assert stats["tasks"]["asr/en"]["repeats"] == 2
    assert stats["tasks"]["asr/en"]["examples"] == 2 * 108
    assert stats["tasks"]["mt/en-es"]["bounded_from"] is None
    with pytest.raises(ConfigError, match=r"mt/fr-en: must be a group of the tables.*answer/en-en, asr/en, mt/en-es"):
        build(corpus, "unknown", ("asr", "mt"), mixture={"groups": {"mt/fr-en": 2}})


def test_other_prompts_are_other_rows(corpus, ray_cluster, monkeypatch, tmp_path):
    stats, _ = build(corpus, "prompts", ("asr",))
    for path in prompts.TEMPLATE_FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("Transcribe", "Write"))
    monkeypatch.setattr(prompts, "TEMPLATE_FOLDER", tmp_path)
    assert build(corpus, "prompts", ("asr",))[0]["fingerprint"] != stats["fingerprint"]

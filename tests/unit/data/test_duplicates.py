import hashlib
import shutil

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.data import duplicates, ledger
from cslm.data.counts import utterance_counts
from cslm.data.duplicates import audio_digest, digest_keys, first_of_each
from cslm.data.ledger import Ledger, add_counts
from cslm.speech.audio import decode
from tests.data import sounds

CODEBOOK_SIZE = 9
SHARDS = [
    {"name": "shard-00000", "language": "en", "split": "train", "digest": "x"},
    {"name": "shard-00001", "language": "es", "split": "train", "digest": "y"},
    {"name": "shard-00002", "language": "en", "split": "test", "digest": "z"},
]


def unit_row(shard, name, sound, part_of=None):
    codes = [len(name) % CODEBOOK_SIZE, 1, 2]
    return {
        "id": name, "part_of": part_of, "text": None if part_of else f"text {name}", "units": codes,
        "durations": [1, 2, 3], "num_frames": 6, "frame_rate_hz": 50.0, "duration_s": 0.12, "tokenizer": "t",
        "source": f"{name}.wav", "source_sha256": "0" * 64, "language": shard["language"], "split": shard["split"],
        "audio_digest": None if sound is None else hashlib.blake2b(sound.encode(), digest_size=16).hexdigest(),
    }  # fmt: skip


# Sounds by shard, piece and id; `long` was split in two in each of two shards.
CORPUS = {
    0: {0: {"b": "rain", "a": "wind"}, 1: {"long#0": "one", "long#1": "two"}},
    1: {0: {"c": "rain", "d": "sea"}, 1: {"e": "rain", "f": None, "g": None}},
    2: {0: {"a2": "wind", "again#0": "one", "again#1": "two", "half#0": "two", "half#1": "own"}},
}


def write(output, corpus=CORPUS):
    for number, pieces in corpus.items():
        shard = SHARDS[number]
        for piece, sounds_by_id in pieces.items():
            rows = [
                unit_row(shard, name, sound, name.partition("#")[0] if "#" in name else None)
                for name, sound in sounds_by_id.items()
            ]
            table = contracts.load("units").table(rows)
            ledger.write_piece(output, shard, piece, table, contracts.load("rejects").table([]))


def remove(output, **options):
    return duplicates.remove(output, SHARDS, CODEBOOK_SIZE, **options)


def units(output):
    return contracts.load("units").check(storage.read_table(f"{output}/units")).sort_by("id")


def rejects(output):
    files = storage.list_files(f"{output}/rejects", ".parquet")
    table = contracts.load("rejects")
    return pa.concat_tables([table.table([]), *(table.check(storage.read_table(file)) for file in files)])


def content(output):
    """All rows that a reader sees, and what lies aside."""
    asides = [storage.read_table(file).to_pylist() for file in storage.list_files(f"{output}/duplicates")]
    return units(output).to_pylist(), rejects(output).sort_by("id").to_pylist(), asides


REMOVED = {"c": "b", "e": "b", "a2": "a", "again#0": "long#0", "again#1": "long#1", "half#0": "long#1"}


def test_the_first_is_kept_and_the_others_are_told_with_its_id(tmp_path):
    write(str(tmp_path))
    before = {row["id"]: row for row in units(tmp_path).to_pylist()}
    remove(str(tmp_path))
    assert {row["id"]: row for row in units(tmp_path).to_pylist()} == {
        name: row for name, row in before.items() if name not in REMOVED
    }
    told = {row["id"]: row for row in rejects(tmp_path).to_pylist()}
    assert set(told) == {*REMOVED, "again"}
    for name, kept in REMOVED.items():
        assert (told[name]["stage"], told[name]["error"]) == ("duplicates", "duplicate_audio")
        assert f"the samples of {kept}," in told[name]["message"]
        assert told[name]["part_of"] == before[name]["part_of"]
    # A recording all of whose utterances are elsewhere is rejected itself, one that has another is not.
    assert told["again"]["error"] == "no_span_taken"
    assert told["again"]["part_of"] is None


def test_the_counts_are_those_of_the_tables(tmp_path):
    write(str(tmp_path))
    counted = {}
    for number, pieces in CORPUS.items():
        names = [name for piece in pieces.values() for name in piece]
        whole = [name for name in names if "#" not in name]
        sources = {name.partition("#")[0] for name in names if "#" in name}
        mine = pa.concat_tables(
            [contracts.load("units").table([unit_row(SHARDS[number], name, "x", "s" if "#" in name else None)])
             for name in names]
        )  # fmt: skip
        counted[SHARDS[number]["name"]] = {
            "accepted": len(whole) + len(sources),
            "rejected": 0,
            "reasons": {},
            "rejected_spans": 0,
            "span_reasons": {},
            "rejected_s": 0.0,
            **utterance_counts(mine, CODEBOOK_SIZE),
        }
    moved = remove(str(tmp_path))
    assert set(moved) == {"shard-00001", "shard-00002"}
    left = {name: add_counts(counts, moved.get(name, {})) for name, counts in counted.items()}
    for shard in SHARDS:
        folder = f"{tmp_path}/units/language={shard['language']}/split={shard['split']}"
        files = [file for file in storage.list_files(folder) if shard["name"] in file]
        table = pa.concat_tables([contracts.load("units").table([])] + [
            contracts.load("units").check(
                storage.read_table(file).append_column("language", pa.array([shard["language"]] * n))
                .append_column("split", pa.array([shard["split"]] * n))
            ) for file in files for n in [storage.dataset(file).count_rows()]
        ])  # fmt: skip
        for name, value in utterance_counts(table, CODEBOOK_SIZE).items():
            assert np.allclose(left[shard["name"]][name], value), name
    assert left["shard-00001"]["accepted"] == 3
    assert left["shard-00001"]["reasons"] == {"duplicate_audio": 2}
    assert left["shard-00002"]["accepted"] == 1
    assert left["shard-00002"]["rejected"] == 2
    assert left["shard-00002"]["reasons"] == {"duplicate_audio": 1, "no_span_taken": 1}
    assert left["shard-00002"]["span_reasons"] == {"duplicate_audio": 3}
    for name, counts in left.items():
        told = [row for row in rejects(tmp_path).to_pylist() if row["source"]]
        assert counts["rejected"] == sum(counts["reasons"].values())
        assert counts["accepted"] + counts["rejected"] == counted[name]["accepted"]
    assert sum(counts["rejected"] for counts in left.values()) == sum(row["part_of"] is None for row in told)
    assert sum(counts["rejected_spans"] for counts in left.values()) == sum(row["part_of"] is not None for row in told)


def test_again_changes_nothing_and_counts_the_same(tmp_path):
    write(str(tmp_path))
    moved = remove(str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert remove(str(tmp_path)) == moved
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before


class Killed(Exception):
    pass


def killed_after(monkeypatch, num_writes, output):
    """Remove duplicates in a process that is killed before its next write; whether it came to its end."""
    left = num_writes

    def dies(write):
        def writing(*arguments):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            write(*arguments)

        return writing

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_AT_ONCE", 1)
        patch.setattr(storage, "write_table", dies(storage.write_table))
        patch.setattr(storage, "remove", dies(storage.remove))
        try:
            remove(output)
        except Killed:
            return False
        return True


def test_killed_between_any_two_writes_it_comes_to_the_same(tmp_path, monkeypatch):
    write(str(tmp_path / "whole"))
    expected_moved = remove(str(tmp_path / "whole"))
    expected = content(tmp_path / "whole")
    survived, num_writes = False, 0
    while not survived:
        output = str(tmp_path / f"killed-{num_writes}")
        write(output)
        survived = killed_after(monkeypatch, num_writes, output)
        assert remove(output) == expected_moved, num_writes
        assert content(output) == expected, num_writes
        num_writes += 1
    assert num_writes > 7


def test_switched_off_every_row_comes_back_and_on_again_goes(tmp_path):
    write(str(tmp_path))
    before = units(tmp_path)
    remove(str(tmp_path))
    after = content(tmp_path)
    assert remove(str(tmp_path), enabled=False) == {}
    assert units(tmp_path).equals(before)
    assert rejects(tmp_path).num_rows == 0
    assert storage.list_files(f"{tmp_path}/duplicates") == []
    remove(str(tmp_path))
    assert content(tmp_path) == after


def test_killed_while_rows_come_back_it_comes_to_the_same(tmp_path, monkeypatch):
    # Without its first, `c` comes back and `e` is told of it.
    without = CORPUS | {0: {0: {"a": "wind"}, 1: CORPUS[0][1]}}
    write(str(tmp_path / "whole"), without)
    expected_moved = remove(str(tmp_path / "whole"))
    expected = content(tmp_path / "whole")
    assert "c" in {row["id"] for row in expected[0]}
    write(str(tmp_path / "before"))
    remove(str(tmp_path / "before"))
    shutil.rmtree(tmp_path / "before" / "units" / "language=en" / "split=train")
    write(str(tmp_path / "before"), {0: without[0]})
    survived, num_writes = False, 0
    while not survived:
        output = str(tmp_path / f"killed-{num_writes}")
        shutil.copytree(tmp_path / "before", output)
        survived = killed_after(monkeypatch, num_writes, output)
        assert remove(output) == expected_moved, num_writes
        assert content(output) == expected, num_writes
        num_writes += 1
    assert num_writes > 3


def test_a_shard_that_is_done_anew_loses_what_was_set_aside_of_it(tmp_path):
    write(str(tmp_path))
    remove(str(tmp_path))
    expected = content(tmp_path)
    Ledger(str(tmp_path), "work").begin(["shard-00000", "shard-00001"])
    names = {storage.name(file) for file in storage.list_files(str(tmp_path))}
    assert not any("shard-00002" in name for name in names)
    assert "duplicate-shard-00001.parquet" in names
    write(str(tmp_path), {2: CORPUS[2]})
    remove(str(tmp_path))
    assert content(tmp_path) == expected


def test_a_table_without_duplicates_or_from_before_there_were_digests_stays(tmp_path):
    write(str(tmp_path), {0: {0: {"a": "wind", "b": "rain"}}})
    [file] = storage.list_files(str(tmp_path), ".parquet")
    storage.write_table(storage.read_table(file).drop_columns(["audio_digest"]), f"{file[:-8]}-001.parquet")
    assert remove(str(tmp_path)) == {}
    assert not (tmp_path / "duplicates").exists()
    assert duplicates.remove(str(tmp_path / "nothing"), SHARDS, CODEBOOK_SIZE) == {}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_the_first_of_each_key_is_found(keys):
    array = np.array(keys, np.uint64).reshape(-1, 2)
    assert first_of_each(array).tolist() == [keys.index(key) for key in keys]


def test_keys_are_the_digits_of_the_digests():
    rng = np.random.default_rng(0)
    digests = [rng.bytes(16).hex() for _ in range(50)]
    expected = [[int(digest[:16], 16), int(digest[16:], 16)] for digest in digests]
    column = pa.chunked_array([pa.array(digests[:20]), pa.array(digests[20:])])
    assert digest_keys(column).tolist() == expected
    assert digest_keys(pa.array(digests).slice(7, 5)).tolist() == expected[7:12]
    assert digest_keys(pa.array([], pa.string())).shape == (0, 2)


def test_the_digest_is_of_the_sound_and_not_of_its_file():
    samples = np.round(sounds.waveform(1) * 32767).astype(np.int16) / np.float32(32768)
    digests = {
        audio_digest(decode(sounds.encoded(samples, kind=kind, subtype=subtype), 16_000))
        for kind, subtype in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_24"), ("WAV", "FLOAT")]
    }
    assert len(digests) == 1
    inside = sounds.encoded(np.concatenate([sounds.waveform(2), samples, sounds.waveform(3)]), subtype="PCM_16")
    assert audio_digest(decode(inside, 16_000, start_s=1.0, end_s=2.0)) in digests
    assert audio_digest(sounds.waveform(2)) not in digests
    assert audio_digest(samples[:-1]) not in digests
    # What is fainter than a step of 16 bits still is told apart.
    assert audio_digest(samples * 1e-6) != audio_digest(sounds.waveform(2) * 1e-6)

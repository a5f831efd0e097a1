"""The tokenize job on recordings as they are: long ones, copies of the same sound, transcripts in any form."""

import json
from collections import Counter

import numpy as np
import pytest

from cslm import contracts, storage
from cslm.apps import tokenize
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from tests.data import sounds


def in_16_bits(samples):
    """What every lossless container keeps exactly."""
    return (np.round(samples * 32767) / 32768).astype(np.float32)


@pytest.fixture
def corpus(home):
    """Two short recordings, a copy of one in another container, one beyond mending, one long and its second half."""
    words = [in_16_bits(sounds.waveform(seed, 0.5)) for seed in range(24)]
    long = np.concatenate([part for word in words for part in (word, np.zeros(6_400, np.float32))])
    one = in_16_bits(sounds.waveform(50))
    middle = len(long) // 2
    files = {
        "a.wav": sounds.encoded(one),
        "b.wav": sounds.encoded(sounds.waveform(51)),
        "copy.flac": sounds.encoded(one, kind="FLAC"),
        "clipped.wav": sounds.encoded(np.clip(40 * sounds.waveform(52), -1, 1)),
        "long.flac": sounds.encoded(long, kind="FLAC"),
        "half.wav": sounds.encoded(long[:middle]),
    }
    for name, data in files.items():
        (home / name).write_bytes(data)
    texts = {"a.wav": "one\u00a0 two", "b.wav": "three", "copy.flac": "one two"}
    rows = [{"id": name, "audio": name, "language": "en", "text": texts.get(name)} for name in files]
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    KMeansTokenizer.fit([sounds.waveform(seed) for seed in range(6)], KMeansSection(codebook_size=30)).save(
        str(home / "tokenizer")
    )
    return home


def run(**changes):
    settings = {
        "corpus.manifest": "corpus.jsonl", "corpus.rows_per_shard": 4, "output.path": "out",
        "tokenizer.path": "tokenizer", "tokenizer.max_actors": 1, "segment.by": "energy", "segment.max_s": 5,
        "segment.search_s": 3, "decode.piece_s": 4, "max_reject_fraction": 0.9,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip
    return tokenize.main([part for key, value in settings.items() for part in (f"--{key}", str(value))])


def table(output, name):
    return contracts.load(name).check(storage.read_table(str(output / name))).sort_by("id").to_pylist()


def accounted(output):
    """Units, rejects and summary, which agree."""
    units, rejects, told = table(output, "units"), table(output, "rejects"), storage.read_json(f"{output}/summary.json")
    sources = {row["part_of"] or row["id"] for row in units}
    refused = [row for row in rejects if row["part_of"] is None]
    assert told["rows"]["accepted"] == len(sources)
    assert told["rows"]["rejected"] == len(refused)
    assert told["rows"]["reasons"] == Counter(row["error"] for row in refused)
    assert sources.isdisjoint(row["id"] for row in refused)
    assert len(sources) + len(refused) == told["rows"]["manifest"] == 6
    assert told["utterances"]["units"] == len(units)
    assert told["utterances"]["spans"] == sum(row["part_of"] is not None for row in units)
    assert told["utterances"]["rejected_spans"] == len(rejects) - len(refused)
    assert told["units"] == sum(len(row["units"]) for row in units)
    assert told["hours"] == pytest.approx(sum(row["duration_s"] for row in units) / 3600, abs=1e-4)
    return units, rejects, told


def test_every_row_is_accounted_for_whatever_becomes_of_it(corpus, ray_cluster, capsys):
    assert run() == 0
    units, rejects, told = accounted(corpus / "out")
    assert {row["id"] for row in units if row["part_of"] is None} == {"a.wav", "b.wav"}
    assert next(row["text"] for row in units if row["id"] == "a.wav") == "one two"
    assert told["text_changes"] == {"spaces": 1}
    errors = {row["id"]: row["error"] for row in rejects}
    assert errors["copy.flac"] == "duplicate_audio"
    assert errors["clipped.wav"] == "clipped"
    # The half begins as the whole does, so that most of its utterances are there already.
    again = [row for row in rejects if row["part_of"] == "long.flac" or row["part_of"] == "half.wav"]
    assert len(again) >= 1
    assert all(row["error"] == "duplicate_audio" for row in again)
    cut = [row for row in units if row["part_of"] == "long.flac"]
    assert len(cut) >= 3
    assert all(row["end_s"] - row["start_s"] <= 5 for row in cut)
    screen = capsys.readouterr().out
    assert "6 rows = " in screen
    assert "long recordings gave" in screen
    assert "transcripts changed to their normal form: spaces 1" in screen

    # Copies come back without tokenizing anything again.
    before = {path.name: path.stat().st_ino for path in (corpus / "out" / "ledger").glob("*.json")}
    assert run(filters__duplicate_audio="false") == 0
    everything, rejects, _ = accounted(corpus / "out")
    assert {row["error"] for row in rejects} == {"clipped"}
    assert len(everything) == len(units) + len(again) + 1
    assert {path.name: path.stat().st_ino for path in (corpus / "out" / "ledger").glob("*.json")} == before
    assert run() == 0
    assert accounted(corpus / "out")[0] == units

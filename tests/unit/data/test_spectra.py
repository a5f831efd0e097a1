import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cslm.data import manifest, spectra
from cslm.data.corpora import CorpusSection
from cslm.data.intake import Intake
from cslm.speech.recogniser import features
from tests.data import sounds


@pytest.fixture
def prepared(tmp_path):
    rows = []
    for number, (seconds, text) in enumerate([(0.5, "one"), (1.0, ""), (3.0, "three"), (0.7, "seven")]):
        sounds.write(tmp_path / f"{number}.wav", number, seconds)
        rows.append({"id": f"u{number}", "audio": f"{number}.wav", "text": text, "language": "en", "speaker": "s"})
    (tmp_path / "2.txt").write_text("no sound")
    rows.append({"id": "u4", "audio": "2.txt", "text": "five", "language": "en", "speaker": "s"})
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = manifest.prepare(CorpusSection(manifest=str(tmp_path / "corpus.jsonl")), str(tmp_path / "out"))
    return str(tmp_path / "out"), made.shards


def row_file(output):
    return Path(output).parent / "0.wav"


def write(output, shard, **changes):
    return spectra.write_shard(output, shard, **{"intake": Intake(), "longest_s": 2.0, **changes})


def test_what_has_a_transcript_is_kept_and_all_else_counted(prepared):
    output, (shard,) = prepared
    counts = write(output, shard)
    assert counts["utterances"] == 2
    assert counts["reasons"] == {"no_transcript": 1, "too_long_to_learn_from": 1, "not_audio": 1}
    assert counts["audio_s"] == pytest.approx(1.2)
    rows = spectra.read(output, [shard["name"]])
    assert [(row.id, row.text, row.language, row.seconds) for row in rows] == [
        ("u0", "one", "en", pytest.approx(0.5)),
        ("u3", "seven", "en", pytest.approx(0.7)),
    ]


def test_spectra_are_those_that_the_recogniser_makes(prepared):
    output, (shard,) = prepared
    write(output, shard)
    row = spectra.read(output, [shard["name"]])[0]
    samples, _ = soundfile.read(row_file(output), dtype="float32")
    expected = features.log_mel(torch.from_numpy(samples), 50)
    np.testing.assert_allclose(row.log_mel, expected.numpy(), atol=0.02)


def test_what_was_written_is_not_made_again_unless_the_settings_change(prepared, monkeypatch):
    output, (shard,) = prepared
    first = write(output, shard)
    monkeypatch.setattr(spectra.recordings, "decode_shard", None)
    assert write(output, shard) == first
    with pytest.raises(TypeError):
        write(output, shard, longest_s=5.0)

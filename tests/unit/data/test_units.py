import numpy as np

from cslm import contracts, storage
from cslm.data import recordings
from cslm.data.intake import Intake
from cslm.data.units import tokenize_piece, write_unmerged
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import UnitSequence, expand_repeats
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from tests.data import sounds

TOKENIZER = KMeansTokenizer.fit([sounds.waveform(seed) for seed in range(4)], KMeansSection(codebook_size=20))


def piece_of(rows):
    shard = contracts.load("utterances").table([{"language": "en", "split": "dev", **row} for row in rows])
    [(piece, _)] = recordings.decode_shard(shard, 16_000, Intake(), 1000.0)
    return piece


def test_every_row_is_in_one_of_the_tables_and_counted(tmp_path):
    for seed in range(3):
        sounds.write(tmp_path / f"{seed}.wav", seed, 1 + seed, rate_hz=22_050)
    (tmp_path / "silence.wav").write_bytes(sounds.encoded(np.zeros(8000, np.float32)))
    rows = [{"id": f"u{seed}", "audio": f"{tmp_path}/{seed}.wav", "text": "words"} for seed in range(3)]
    rows += [{"id": "s", "audio": f"{tmp_path}/silence.wav"}, {"id": "m", "audio": f"{tmp_path}/missing.wav"}]
    units, rejects, counts = tokenize_piece(piece_of(rows), TOKENIZER)
    contracts.load("units").check(units)
    contracts.load("rejects").check(rejects)
    assert units.column("id").to_pylist() == ["u0", "u1", "u2"]
    assert {(row["id"], row["stage"], row["error"]) for row in rejects.to_pylist()} == {
        ("s", "audio", "silent"),
        ("m", "audio", "missing"),
    }
    assert (counts["rows"], counts["accepted"], counts["rejected"]) == (5, 3, 2)
    assert counts["reasons"] == {"silent": 1, "missing": 1}
    assert counts["audio_s"] == 6.0
    assert counts["rejected_s"] == 0.5
    assert counts["frames"] == 300
    assert counts["units"] == sum(counts["unit_counts"]) == sum(map(len, units.column("units").to_pylist()))
    assert sum(counts["duration_counts"]) == 3
    assert len(counts["unit_counts"]) == 20


def test_units_and_durations_give_the_codes_of_every_frame(tmp_path):
    sounds.write(tmp_path / "a.wav", 5, 2.0)
    units, _, _ = tokenize_piece(piece_of([{"id": "a", "audio": f"{tmp_path}/a.wav"}]), TOKENIZER)
    [row] = units.to_pylist()
    sequence = UnitSequence(np.array(row["units"], np.uint16), np.array(row["durations"], np.uint16))
    quantised = np.round(sounds.waveform(5, 2.0) * 32767) / 32768
    agree = expand_repeats(sequence) == TOKENIZER.encode([quantised.astype(np.float32)])[0]
    assert agree.mean() > 0.95
    assert row["num_frames"] == 100
    assert row["tokenizer"] == TOKENIZER.fingerprint
    assert len(row["source_sha256"]) == 64


def test_a_piece_of_rejects_alone_has_no_units(tmp_path):
    units, rejects, counts = tokenize_piece(piece_of([{"id": "m", "audio": f"{tmp_path}/missing.wav"}]), TOKENIZER)
    assert (units.num_rows, rejects.num_rows, counts["units"]) == (0, 1, 0)


def test_a_table_of_unmerged_units_has_a_code_for_every_frame_and_the_same_tokenizer(tmp_path):
    sounds.write(tmp_path / "a.wav", 1, 2)
    merged, _, _ = tokenize_piece(piece_of([{"id": "a", "audio": f"{tmp_path}/a.wav"}]), TOKENIZER)
    stored = merged.drop_columns(["language", "split"])
    storage.write_table(stored, f"{tmp_path}/of/units/language=en/split=dev/part-0.parquet")
    TOKENIZER.save(f"{tmp_path}/of/tokenizer")
    write_unmerged(f"{tmp_path}/of", f"{tmp_path}/to")
    found = contracts.load("units").check(storage.read_table(f"{tmp_path}/to/units"))
    [before], [after] = merged.to_pylist(), found.to_pylist()
    assert len(after["units"]) == after["num_frames"] == before["num_frames"] > len(before["units"])
    sequence = UnitSequence(*(np.array(before[name], np.uint16) for name in ("units", "durations")))
    assert after["units"] == expand_repeats(sequence).tolist()
    assert set(after["durations"]) == {1}
    assert storage.listing_digest(f"{tmp_path}/to/tokenizer") != ""
    assert speech.load("kmeans", f"{tmp_path}/to/tokenizer").fingerprint == TOKENIZER.fingerprint

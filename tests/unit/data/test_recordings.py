import numpy as np
import pytest

from cslm import contracts, storage
from cslm.data import manifest, recordings
from cslm.data.corpora import CorpusSection
from cslm.data.intake import Intake
from cslm.errors import ContractError
from tests.data import sounds

LIMITS = Intake()


def table(rows):
    return contracts.load("utterances").table([{"language": "en", "split": "train", **row} for row in rows])


def pieces(rows, piece_s=1000.0):
    return list(recordings.decode_shard(table(rows), 16_000, LIMITS, piece_s))


@pytest.fixture
def clips(tmp_path):
    for seed in range(6):
        sounds.write(tmp_path / f"{seed}.wav", seed, 1.0)
    return [{"id": f"u{seed}", "audio": f"{tmp_path}/{seed}.wav"} for seed in range(6)]


def test_rows_are_decoded_and_faults_of_the_data_stay_with_their_row(clips, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound at all\n")
    (tmp_path / "folder.wav").mkdir()
    names = ("absent.wav", "empty.wav", "text.wav", "folder.wav", "0.wav/under.wav", "x" * 300)
    bad = [{"id": name[:20], "audio": f"{tmp_path}/{name}"} for name in names]
    bad += [{"id": "zero", "audio": f"{tmp_path}/\0.wav"}, {"id": "scheme", "audio": "tape://reel/1.wav"}]
    [(piece, last)] = pieces([*clips, *bad])
    assert last
    errors = dict(zip(piece.column("id").to_pylist(), piece.column("error").to_pylist(), strict=True))
    assert {key: value for key, value in errors.items() if value} == {
        "absent.wav": "missing",
        "empty.wav": "empty_file",
        "text.wav": "not_audio",
        "folder.wav": "missing",
        "0.wav/under.wav": "missing",
        "x" * 20: "missing",
        "zero": "missing",
        "scheme": "missing",
    }
    for row, samples in zip(piece.to_pylist(), recordings.waveforms_of(piece), strict=True):
        assert len(samples) == (0 if row["error"] else 16_000)
        assert bool(row["error"]) == bool(row["message"])


def test_a_storage_that_fails_is_no_fault_of_the_row(clips, monkeypatch):
    def unreachable(uri):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(storage, "read_bytes", unreachable)
    with pytest.raises(ConnectionResetError, match=r"0\.wav"):
        pieces(clips)


def test_a_file_that_may_not_be_read_is_no_fault_of_the_row():
    with pytest.raises(OSError, match="/proc/self/mem"):
        pieces([{"id": "a", "audio": "/proc/self/mem"}])


def test_pieces_keep_to_their_budget_and_hold_every_row_once(clips):
    found = pieces(clips, piece_s=1.5)
    assert [piece.num_rows for piece, _ in found] == [2, 2, 2]
    assert [last for _, last in found] == [False, False, True]
    assert [one for piece, _ in found for one in piece.column("id").to_pylist()] == [row["id"] for row in clips]


def test_a_piece_is_the_same_whichever_way_it_is_cut(clips):
    whole = recordings.waveforms_of(pieces(clips)[0][0])
    cut = [samples for piece, _ in pieces(clips, piece_s=0.1) for samples in recordings.waveforms_of(piece)]
    assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))


def test_spans_of_one_recording_are_read_once(clips, monkeypatch):
    spans = [
        row | {"id": f"{row['id']}#{n}", "start_s": n / 4, "end_s": (n + 1) / 4} for n in range(4) for row in clips
    ]
    read, reads = storage.read_bytes, []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: reads.append(uri) or read(uri))
    [(piece, _)] = pieces(spans)
    assert len(reads) == 6
    whole = {
        row["id"]: samples for row, samples in zip(clips, recordings.waveforms_of(pieces(clips)[0][0]), strict=True)
    }
    for name, samples in zip(piece.column("id").to_pylist(), recordings.waveforms_of(piece), strict=True):
        source, _, number = name.partition("#")
        assert np.array_equal(samples, whole[source][int(number) * 4000 :][:4000])


def test_the_sample_takes_every_language_alike_and_only_the_training_split(tmp_path):
    lines = ["id,audio,language,split"]
    for seed in range(40):
        language, split = ("en" if seed < 30 else "es"), ("test" if seed % 5 == 0 else "train")
        # Clips of a language and split have a length of their own, by which they are known again.
        seconds = {"entrain": 0.5, "entest": 0.6, "estrain": 0.7, "estest": 0.8}[language + split]
        sounds.write(tmp_path / f"{seed}.wav", seed, seconds)
        lines.append(f"u{seed},{seed}.wav,{language},{split}")
    lines.append("gone,gone.wav,es,train")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    output = str(tmp_path / "out")
    manifest.prepare(CorpusSection(manifest=str(tmp_path / "corpus.csv"), rows_per_shard=5), output)
    taken = recordings.sample(output, 6.0, 16_000, LIMITS, seed=3)
    seconds = [round(len(samples) / 16_000, 1) for samples in taken]
    assert sorted(set(seconds)) == [0.5, 0.7]
    assert seconds.count(0.5) * 0.5 == pytest.approx(3.0, abs=0.5)
    assert seconds.count(0.7) * 0.7 == pytest.approx(3.0, abs=0.7)
    again = recordings.sample(output, 6.0, 16_000, LIMITS, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(taken, again, strict=True))
    other = recordings.sample(output, 6.0, 16_000, LIMITS, seed=4)
    assert not all(np.array_equal(one, other) for one, other in zip(taken, other, strict=False))


def test_a_corpus_without_any_audio_says_so_with_an_example(tmp_path):
    (tmp_path / "corpus.csv").write_text("id,audio,language\na,gone.wav,en\nb,gone too.wav,en\n")
    manifest.prepare(CorpusSection(manifest=str(tmp_path / "corpus.csv")), str(tmp_path / "out"))
    with pytest.raises(ContractError, match=r"found none in 2 rows that were tried; of one of them: .*gone"):
        recordings.sample(str(tmp_path / "out"), 6.0, 16_000, LIMITS, seed=0)

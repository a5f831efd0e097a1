import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cslm.data.corpora import Corpus, CorpusSection
from cslm.errors import ConfigError

ROWS = [
    {"id": "a", "audio": "sounds/a.wav", "text": 'He said "yes", twice.', "language": "en", "speaker": "ann"},
    {"id": "b", "audio": "/elsewhere/b.wav", "text": "Sí.", "language": "es", "speaker": "bea"},
    {"id": "c", "audio": "s3://bucket/c.flac", "text": "好", "language": "zh-CN", "speaker": "cem"},
]


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows=ROWS):
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path, rows=ROWS):
    lines = ["\t".join(rows[0])] + ["\t".join(row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_parquet(path, rows=ROWS):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "tsv": write_tsv, "parquet": write_parquet}


def read(path, **settings):
    corpus = Corpus(CorpusSection(manifest=str(path), **{"format": "manifest", **settings}))
    rows = list(corpus.rows())
    return rows, corpus.notices


def expected(base):
    return [row | {"audio": f"{base}/sounds/a.wav"} if row["id"] == "a" else row for row in ROWS]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows_with_audio_beside_the_manifest(kind, tmp_path):
    WRITERS[kind](tmp_path / f"corpus.{kind}")
    assert read(tmp_path / f"corpus.{kind}") == (expected(tmp_path), [])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_of_parts_is_one_manifest(kind, tmp_path):
    for number, row in enumerate(ROWS):
        WRITERS[kind](tmp_path / f"part-{number}.{kind}", [row])
    assert read(tmp_path) == (expected(tmp_path), [])


def test_columns_in_the_folders_of_a_partitioned_table_are_read(tmp_path):
    for row in ROWS:
        folder = tmp_path / f"language={row['language']}"
        folder.mkdir()
        write_parquet(folder / "part.parquet", [{key: value for key, value in row.items() if key != "language"}])
    rows, _ = read(tmp_path)
    assert sorted((row["id"], row["language"]) for row in rows) == [("a", "en"), ("b", "es"), ("c", "zh-CN")]


def test_paths_are_made_plain_and_stay_below_the_manifest_or_the_root_that_is_given(tmp_path):
    paths = ["x/.././a.wav", "../audio/./a.wav", "../a.wav#bytes=0-9", "/etc/a.wav", "s3://other/a.wav"]
    (tmp_path / "lists").mkdir()
    write_jsonl(tmp_path / "lists/corpus.jsonl", [ROWS[0] | {"audio": path} for path in paths])
    rows, _ = read(tmp_path / "lists/corpus.jsonl")
    assert [row.get("#reason") for row in rows] == [None, "outside_root", "outside_root", None, None]
    assert rows[0]["audio"] == f"{tmp_path}/lists/a.wav"
    assert rows[3]["audio"] == "/etc/a.wav"
    # From a root that is given, which a path that begins upwards is not meant from.
    rows, _ = read(tmp_path / "lists/corpus.jsonl", root=str(tmp_path / "audio"))
    assert [row["audio"] for row in rows][:2] == [f"{tmp_path}/audio/a.wav"] * 2
    assert rows[2]["#reason"] == "outside_root"
    rows, _ = read(tmp_path / "lists/corpus.jsonl", root=str(tmp_path))
    found = [f"{tmp_path}/a.wav", f"{tmp_path}/audio/a.wav", f"{tmp_path}/a.wav#bytes=0-9"]
    assert [row["audio"] for row in rows][:3] == found


def test_columns_that_are_called_otherwise_are_named_in_the_settings(tmp_path):
    for kind, write in WRITERS.items():
        path = tmp_path / f"corpus.{kind}"
        write(path, [{"key": "a", "audio_filepath": "a.wav", "lang": "en", "text": "x"}])
        rows, notices = read(path, columns={"id": "key", "audio": "audio_filepath", "language": "lang"})
        assert rows == [{"id": "a", "audio": f"{tmp_path}/a.wav", "language": "en", "text": "x"}]
        assert notices == []
        with pytest.raises(ConfigError, match="words must be a column"):
            read(path, columns={"id": "key", "audio": "audio_filepath", "language": "lang", "text": "words"})


def test_packed_manifests_are_unpacked_on_the_way(tmp_path):
    for kind in ("jsonl", "csv", "tsv"):
        plain = tmp_path / f"corpus.{kind}"
        WRITERS[kind](plain)
        (tmp_path / f"corpus.{kind}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        assert read(tmp_path / f"corpus.{kind}.gz") == (expected(tmp_path), [])


def test_a_folder_of_audio_is_a_corpus_in_one_language(tmp_path):
    for name in ("one.wav", "deep/er/two.FLAC", "test/three#1.mp3", "notes.txt", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows, _ = read(tmp_path, language="fr", format="auto")
    assert rows == [
        {"id": "deep/er/two", "audio": f"{tmp_path}/deep/er/two.FLAC", "language": "fr", "split": None},
        {"id": "one", "audio": f"{tmp_path}/one.wav", "language": "fr", "split": None},
        {"id": "test/three#1", "audio": f"{tmp_path}/test/three#1.mp3", "language": "fr", "split": "test"},
    ]
    with pytest.raises(ConfigError, match="must be given, as the audio files"):
        read(tmp_path, format="auto")


@pytest.mark.parametrize("kind", WRITERS)
def test_all_missing_columns_are_told_at_once(kind, tmp_path):
    WRITERS[kind](tmp_path / f"corpus.{kind}", [{"path": "a.wav", "id": "a"}])
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / f"corpus.{kind}")
    assert caught.value.faults[:2] == [
        "corpus.manifest: column audio is required",
        "corpus.manifest: column language is required",
    ]
    assert "['id', 'path']" in caught.value.faults[2]


@pytest.mark.parametrize("kind", WRITERS)
def test_one_language_for_all_rows_makes_its_column_optional(kind, tmp_path):
    WRITERS[kind](tmp_path / f"corpus.{kind}", [{"id": "a", "audio": "/a.wav"}])
    assert len(read(tmp_path / f"corpus.{kind}", language="en")[0]) == 1


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_without_use_are_told_once(kind, tmp_path):
    WRITERS[kind](tmp_path / f"corpus.{kind}", [row | {"up_votes": "3", "age": "40"} for row in ROWS])
    rows, notices = read(tmp_path / f"corpus.{kind}")
    assert len(rows) == 3
    assert notices == ["columns of the manifest that have no use here: ['age', 'up_votes']"]


def test_lines_that_are_no_rows_are_told_and_cost_no_other(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_jsonl(path)
    path.write_text(path.read_text() + "{broken\n\n[1, 2]\n" + path.read_text())
    rows, _ = read(path)
    faults = [row["#fault"] for row in rows if "#fault" in row]
    assert len(rows) == 8
    assert "line 4 of" in faults[0]
    assert "line 6 of" in faults[1]
    assert "must be a JSON object" in faults[1]


def test_lines_with_too_few_or_many_fields_are_told(tmp_path):
    path = tmp_path / "corpus.csv"
    path.write_text("id,audio,language\na,/a.wav,en\nb,/b.wav\nc,/c.wav,en,extra\n")
    rows, _ = read(path)
    assert [row.get("#fault", "")[-31:] for row in rows] == [
        "",
        "csv must have 3 fields, found 2",
        "csv must have 3 fields, found 4",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", "", "must hold rows, found none"),
        ("corpus.csv", "id,audio,language\n", "must hold rows, found none"),
        ("corpus.txt", "a\n", "must be a folder or a file named"),
    ],
)
def test_a_source_without_rows_or_of_no_known_kind_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name)


def test_a_folder_with_manifests_of_two_kinds_or_with_nothing_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="must be a corpus in a layout that is known"):
        read(tmp_path / "empty", language="en", format="auto")
    write_jsonl(tmp_path / "corpus.jsonl")
    write_csv(tmp_path / "corpus.csv")
    with pytest.raises(ConfigError, match="manifests of one kind"):
        read(tmp_path)

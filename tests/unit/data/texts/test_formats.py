import json

import pyarrow as pa
import pytest

from cslm import storage
from cslm.data.texts import formats
from cslm.data.texts.records import Dialogue, Pair
from cslm.data.texts.settings import LanguagesSection, SourceSection
from cslm.errors import ConfigError

PAIR = {"source": "a", "target": "b"}
CHATS = {
    "alpaca": {"instruction": "A?", "output": "B."},
    "sharegpt": {"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}]},
    "messages": {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]},
}


def write(path, row):
    storage.make_folder(storage.parent(str(path)))
    if path.suffix == ".parquet":
        storage.write_table(pa.Table.from_pylist([row]), str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps([row], indent=1))
    elif path.suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"{mark.join(row)}\n{mark.join(row.values())}\n")


def found(path, languages=("en", "zh"), **settings):
    source = SourceSection(path=str(path), **settings)
    section = LanguagesSection(source=languages[0], target=languages[1])
    corpus = formats.find(source, section)
    return corpus, [record for _, record in formats.read(corpus, source, section)]


@pytest.mark.parametrize(
    ("name", "format"),
    [("c.tsv", "tsv"), ("c.csv", "csv"), ("c.jsonl", "jsonl"), ("c.json", "jsonl"), ("c.parquet", "parquet")],
)
def test_pairs_are_told_by_the_name_of_the_file(tmp_path, name, format):
    write(tmp_path / name, PAIR)
    corpus, records = found(tmp_path / name)
    assert (corpus.format, corpus.table, records) == (format, "parallel_text", [Pair("a", "b")])


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("format", CHATS)
def test_dialogues_are_told_by_the_keys_of_the_first_row(tmp_path, format, suffix):
    write(tmp_path / f"c.{suffix}", CHATS[format])
    corpus, (record,) = found(tmp_path / f"c.{suffix}")
    assert (corpus.format, corpus.table) == (format, "dialogues")
    assert isinstance(record, Dialogue)
    assert [turn.parts[0] for turn in record.turns] == ["A?", "B."]


def test_a_hugging_face_table_of_translations_is_read(tmp_path):
    write(tmp_path / "c.parquet", {"translation": {"en": "a", "zh": "b"}, "vector": [1.0]})
    assert found(tmp_path / "c.parquet")[1] == [Pair("a", "b")]


def test_line_pairs_are_told_by_the_two_files(tmp_path):
    (tmp_path / "c.en").write_text("a\n")
    (tmp_path / "c.zh").write_text("b\n")
    for path in ("c", "c.en"):
        corpus, records = found(tmp_path / path)
        assert (corpus.format, records) == ("moses", [Pair("a", "b")])
    with pytest.raises(ConfigError, match="line pairs need two files"):
        found(tmp_path / "c", ("en", "fr"), format="moses")
    with pytest.raises(ConfigError, match="found nothing at"):
        found(tmp_path / "c", (None, None))


def test_a_name_goes_before_what_the_file_looks_like(tmp_path):
    (tmp_path / "c.txt").write_text("a\tb\n")
    columns = {"source": "1", "target": "2"}
    assert found(tmp_path / "c.txt", format="tsv", columns=columns)[1] == [Pair("a", "b")]
    with pytest.raises(ConfigError, match=r"source\.format: must be given"):
        found(tmp_path / "c.txt")
    # An instruction set read as pairs, where the user says which columns are.
    write(tmp_path / "c.jsonl", CHATS["alpaca"])
    corpus, records = found(tmp_path / "c.jsonl", columns={"source": "instruction", "target": "output"})
    assert (corpus.table, records) == ("parallel_text", [Pair("A?", "B.")])


def test_places_stand_for_both_texts_or_for_none(tmp_path):
    write(tmp_path / "c.tsv", PAIR)
    with pytest.raises(ConfigError, match="found 1 and target"):
        found(tmp_path / "c.tsv", columns={"source": 1, "target": "target"})


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
def test_a_folder_holds_parts_and_its_hive_folders_are_columns(tmp_path, suffix):
    for split in ("train", "dev"):
        write(tmp_path / "c" / f"split={split}" / f"part.{suffix}", PAIR | {"source": split})
    (tmp_path / "c" / "README.md").write_text("about")
    corpus, records = found(tmp_path / "c")
    assert len(corpus.files) == 2
    assert records == [Pair("dev", "b", split="dev"), Pair("train", "b", split="train")]


def test_a_folder_of_two_kinds_needs_a_name(tmp_path):
    write(tmp_path / "c" / "a.tsv", PAIR)
    write(tmp_path / "c" / "b.jsonl", PAIR)
    with pytest.raises(ConfigError, match=r"found \['json', 'tsv'\]"):
        found(tmp_path / "c")
    assert found(tmp_path / "c", format="tsv")[1] == [Pair("a", "b")]
    with pytest.raises(ConfigError, match="found none"):
        found(tmp_path / "c", format="parquet")


def test_dialogues_need_a_language(tmp_path):
    write(tmp_path / "c.jsonl", CHATS["alpaca"])
    with pytest.raises(ConfigError, match=r"languages\.source: must be given"):
        found(tmp_path / "c.jsonl", (None, None))
    write(tmp_path / "d.jsonl", CHATS["alpaca"] | {"language": "fr"})
    assert found(tmp_path / "d.jsonl", (None, None))[1][0].language == "fr"


def test_the_key_follows_files_and_the_way_of_reading(tmp_path):
    write(tmp_path / "c.tsv", PAIR)
    key = found(tmp_path / "c.tsv")[0].key
    assert found(tmp_path / "c.tsv")[0].key == key
    assert found(tmp_path / "c.tsv", columns={"source": "target"})[0].key != key
    write(tmp_path / "c.tsv", PAIR | {"target": "longer"})
    assert found(tmp_path / "c.tsv")[0].key != key

import gzip

import pytest

from cslm.data.texts import files
from cslm.data.texts.files import TextFile
from cslm.errors import ContractError


def test_only_line_feeds_end_lines_and_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028still one\r\n\ntwo\x0bstill two".encode())
    lines = list(TextFile(str(tmp_path / "a.txt")).lines())
    assert [line.decode() for line in lines] == ["one\u2028still one", "", "two\x0bstill two"]


def test_gzip_is_read_as_what_it_holds_and_progress_goes_by_what_is_on_disk(tmp_path):
    path = tmp_path / "a.txt.gz"
    # Two members one behind the other, as `cat a.gz b.gz` makes them.
    path.write_bytes(gzip.compress(b"one\ntwo\n") + gzip.compress(b"three\n"))
    file = TextFile(str(path))
    assert file.position == 0
    assert list(file.lines()) == [b"one", b"two", b"three"]
    assert file.position == file.num_bytes == path.stat().st_size


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-6], lambda data: b"plain text", lambda data: data[:12] + b"\xff" * 9]
)
def test_a_damaged_gzip_file_is_told(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(b"line\n" * 1000)))
    with pytest.raises(ContractError, match="must be a whole gzip file"):
        list(TextFile(str(path)).lines())


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("/x/corpus.en", ".en", "corpus"),
        ("s3://b/corpus.v1.TSV.gz", ".tsv", "corpus.v1"),
        ("/x.y/plain", "", "plain"),
        ("/x/plain.gz", "", "plain"),
        ("/x/.hidden", "", ".hidden"),
    ],
)
def test_suffix_and_stem(name, suffix, stem):
    assert (files.suffix(name), files.stem(name)) == (suffix, stem)


def test_files_of_a_folder_know_what_its_hive_folders_say(tmp_path):
    for split in ("dev", "train"):
        (tmp_path / f"split={split}").mkdir()
        (tmp_path / f"split={split}" / "a.jsonl").write_text("{}\n")
    assert [file.values for file in files.of_folder(str(tmp_path))] == [{"split": "dev"}, {"split": "train"}]

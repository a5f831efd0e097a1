"""Broken manifests and containers: each ends in `rejects` with a reason, or in a sentence when nothing is readable."""

import csv
import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cslm import storage
from cslm.data import fetch, manifest
from cslm.data.corpora import CorpusSection
from cslm.errors import ConfigError
from tests.data import layouts

GOOD = {"id": "good", "audio": "good.wav", "language": "en"}


def jsonl(*lines):
    """A good row, then others: mappings, or text as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in (GOOD, *lines)]
    return {"corpus.jsonl": "".join(text + "\n" for text in texts)}


def table(rows, path="corpus.parquet", **options):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return {path: sink.getvalue()}


def tar(members, cut=None, raw=()):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in raw:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return sink.getvalue()[:cut]


def arrow(num_rows, cut=None):
    sink = io.BytesIO()
    made, _ = layouts.audio_table(0, num_rows)
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=2)
    return sink.getvalue()[:cut]


MANY = "".join(json.dumps(GOOD | {"id": f"{hash((n, 7)):x}"}) + "\n" for n in range(5000))
WAV = layouts.clip(0, "WAV")
PAIR = {"a.wav": WAV, "a.txt": b"one", "b.wav": WAV, "b.txt": b"two"}
WHOLE_TAR = tar(PAIR)
# Offset of the recording of b: after two headers and what they are of, and its own header.
SECOND_MEMBER = 512 + -(-len(WAV) // 512) * 512 + 1024 + 512
CUT_IN_A_HEADER = tar({**PAIR, "c.wav": WAV})[: 2 * (SECOND_MEMBER - 512) + 200]

# Files, settings, the reasons with their counts, and a piece of the message of one.
BROKEN = {
    "a line that is no JSON": (jsonl('{"id": "a", '), {}, {"unreadable_row": 1}, "line 2 of"),
    "a line that is no object": (jsonl("[1, 2]"), {}, {"unreadable_row": 1}, "must be a JSON object"),
    "a line of another encoding": (
        {"corpus.jsonl": json.dumps(GOOD).encode() + '\n{"id": "é"}\n'.encode("latin-1")},
        {},
        {"wrong_encoding": 1},
        "must be UTF-8",
    ),
    "a field of another encoding": (
        {"corpus.csv": "id,audio,language,text\ngood,good.wav,en,x\na,a.wav,es,sí\n".encode("latin-1")},
        {},
        {"wrong_encoding": 1},
        "line 3 of",
    ),
    "half of a character": (
        jsonl('{"id": "a", "audio": "a.wav", "text": "\\ud83d"}'),
        {},
        {"wrong_encoding": 1},
        "halves",
    ),
    "a wrong number of fields": (
        {"corpus.tsv": "id\taudio\tlanguage\ngood\tgood.wav\ten\na\ta.wav\nb\tb.wav\ten\tmore\n"},
        {},
        {"unreadable_row": 2},
        "must have 3 fields, found 2",
    ),
    "a field that never ends": (
        {"corpus.csv": 'id,audio,language,text\ngood,good.wav,en,x\na,a.wav,en,"' + "y\n" * csv.field_size_limit()},
        {},
        None,
        "found field larger than field limit",
    ),
    "a value that is no text": (jsonl(GOOD | {"id": "a", "text": ["x"]}), {}, {"bad_value": 1}, "found list"),
    "no id": (jsonl(GOOD | {"id": ""}), {}, {"no_id": 1}, "column id must hold a value"),
    "an id that came before": (jsonl(GOOD), {}, {"duplicate_id": 1}, "ids must be unique"),
    "no audio": (jsonl(GOOD | {"id": "a", "audio": None}), {}, {"no_audio": 1}, "column audio"),
    "a path out of the corpus": (
        jsonl(GOOD | {"id": "a", "audio": "../../x.wav"}),
        {},
        {"outside_root": 1},
        "corpus.root",
    ),
    "no language": (jsonl(GOOD | {"id": "a", "language": None}), {}, {"no_language": 1}, "corpus.language"),
    "a tag of no shape": (jsonl(GOOD | {"id": "a", "language": "e n"}), {}, {"bad_language": 1}, "BCP-47"),
    "a country": (jsonl(GOOD | {"id": "a", "language": "jp"}), {}, {"unknown_language": 1}, "countries"),
    "a name of a language": (jsonl(GOOD | {"id": "a", "language": "english"}), {}, {"unknown_language": 1}, "ISO 639"),
    "no such split": (jsonl(GOOD | {"id": "a", "split": "holdout"}), {}, {"bad_split": 1}, "holdout"),
    "a time that is no number": (jsonl(GOOD | {"id": "a", "start_s": "soon"}), {}, {"bad_number": 1}, "'soon'"),
    "an end before its start": (
        jsonl(GOOD | {"id": "a", "start_s": 2, "end_s": 1}),
        {},
        {"bad_span": 1},
        "2.0 and 1.0",
    ),
    "a start before the beginning": (jsonl(GOOD | {"id": "a", "start_s": -1}), {}, {"bad_span": 1}, "-1.0"),
    "a time without end": (
        jsonl('{"id": "a", "audio": "a", "language": "en", "end_s": Infinity}'),
        {},
        {"bad_span": 1},
        "inf",
    ),
    "a packed manifest cut short": (
        {"corpus.jsonl.gz": gzip.compress(MANY.encode())[:-400]},
        {},
        {"truncated": 1},
        "must unpack to its end",
    ),
    "a binary part among text": (jsonl() | {"b.jsonl": b"\0\1\2"}, {}, {"not_text": 1}, "found binary data"),
    "an empty part": (jsonl() | {"b.jsonl": ""}, {}, {"no_rows": 1}, "must hold rows, found none"),
    "a Parquet part that is none": (
        table([GOOD], "a.parquet") | {"b.parquet": b"PAR1 no more"},
        {},
        {"unreadable_container": 1},
        "found damage",
    ),
    "Parquet without bytes and path": (
        table([{"audio": {"bytes": None, "path": None}}, {"audio": {"bytes": WAV, "path": "x"}}]),
        {"language": "en"},
        {"no_audio": 1},
        "bytes or a path",
    ),
    "Arrow cut short": ({"a.arrow": arrow(4, -800)}, {}, {"unreadable_container": 1}, "found damage"),
    "Arrow that ends between batches": ({"a.arrow": arrow(4, -8)}, {}, {"unreadable_container": 1}, "no end mark"),
    "a tar cut inside a recording": (
        {"a.tar": WHOLE_TAR[: SECOND_MEMBER + 100]},
        {"language": "en"},
        {"truncated_tar": 1},
        "found damage after b",
    ),
    "a tar cut inside a header": (
        {"a.tar": CUT_IN_A_HEADER},
        {"language": "en"},
        {"truncated_tar": 1},
        "after b: no end mark",
    ),
    "a tar that is none among others": (
        {"a.tar": WHOLE_TAR, "b.tar": b"nothing " * 999},
        {"language": "en"},
        {"not_a_tar": 1},
        "must be a whole tar",
    ),
    "a packed tar among others": (
        {"a.tar": WHOLE_TAR, "b.tar.gz": gzip.compress(WHOLE_TAR)},
        {"language": "en"},
        {"compressed_tar": 1},
        "gunzip",
    ),
    "links in a tar": (
        {"a.tar": tar(PAIR, raw=[("c.wav", tarfile.SYMTYPE, "/etc/passwd"), ("d.wav", tarfile.LNKTYPE, "a.wav")])},
        {"language": "en"},
        {"not_a_file": 2},
        "link",
    ),
    "members out of a tar": (
        {"a.tar": tar({**PAIR, "/etc/x.wav": WAV, "../y.wav": WAV})},
        {"language": "en"},
        {"outside_root": 2},
        "/etc/x.wav",
    ),
    "a sample without a recording": (
        {"a.tar": tar({**PAIR, "c.txt": b"text alone"})},
        {"language": "en"},
        {"no_audio": 1},
        "one recording",
    ),
    "a sample with two recordings": (
        {"a.tar": tar({**PAIR, "c.left.wav": WAV, "c.right.wav": WAV})},
        {"language": "en"},
        {"bad_value": 1},
        "found 2",
    ),
    "a sample whose JSON is none": (
        {"a.tar": tar({**PAIR, "c.wav": WAV, "c.json": b"{"})},
        {"language": "en"},
        {"unreadable_row": 1},
        "c.json",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_rejected_with_a_reason_and_the_rest_is_taken(name, tmp_path):
    files, settings, reasons, message = BROKEN[name]
    for path, content in files.items():
        layouts.write(tmp_path / "corpus" / path, content)
    made = manifest.prepare(CorpusSection(manifest=str(tmp_path / "corpus"), **settings), str(tmp_path / "out"))
    assert made.shards, "the good rows are taken"
    rejected = storage.read_table(storage.list_files(str(tmp_path / "out/rejects"))).to_pylist()
    assert len(rejected) == sum(made.rejected.values()) == made.num_rows - sum(shard["rows"] for shard in made.shards)
    assert any(message in row["message"] for row in rejected), rejected
    assert all("must" in row["message"] and "found" in row["message"] for row in rejected), rejected
    if reasons is not None:
        assert made.rejected == reasons
    # What is taken of a container can be read.
    for shard in made.shards:
        for row in manifest.read_shard(str(tmp_path / "out"), shard["name"]).to_pylist():
            if "#" in row["audio"]:
                assert len(fetch.fetch(row["audio"]).data) > 1000


WHOLLY_BROKEN = {
    "empty": ({"corpus.jsonl": ""}, "must hold rows, found none"),
    "a header alone": ({"corpus.csv": "id,audio,language\n"}, "must hold rows, found none"),
    "binary": ({"corpus.csv": bytes(range(256)) * 9}, "must be UTF-8 text, found binary data"),
    "UTF-16": ({"corpus.tsv": "id\taudio\n".encode("utf-16")}, "found UTF-16; save it as UTF-8"),
    "no Parquet": ({"corpus.parquet": b"nothing of the kind"}, "must be a whole file of its kind"),
    "empty Parquet": ({"corpus.parquet": b""}, "must be a whole file of its kind"),
    "no Arrow": ({"corpus.arrow": b"nothing of the kind"}, "must be a whole file of its kind"),
    "empty Arrow": ({"corpus.arrow": b""}, "must be a whole file of its kind"),
    "no tar": ({"corpus.tar": b"nothing of the kind"}, "must be a whole tar"),
    "empty tar": ({"corpus.tar": b""}, "must be a whole tar"),
    "a tar of nothing": ({"corpus.tar": tar({})}, "no member with a recording"),
    "packed tars": ({"a.tgz": b"x", "b.tar.gz": b"y"}, "must not be compressed"),
    "no gzip": ({"corpus.jsonl.gz": b"plain text"}, "must unpack to its end"),
    "JSON cut before its array": ({"g.json": '{"audios": [], "x": "text_tn"}'}, "must hold rows, found none"),
}


@pytest.mark.parametrize("name", WHOLLY_BROKEN)
def test_a_source_of_which_nothing_can_be_read_is_refused_in_a_sentence(name, tmp_path):
    files, message = WHOLLY_BROKEN[name]
    for path, content in files.items():
        layouts.write(tmp_path / "corpus" / path, content)
    with pytest.raises(ConfigError, match=message):
        manifest.prepare(CorpusSection(manifest=str(tmp_path / "corpus"), language="en"), str(tmp_path / "out"))

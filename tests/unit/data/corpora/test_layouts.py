import gzip
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cslm import storage
from cslm.data import fetch, manifest
from cslm.data.corpora import FORMATS, CorpusSection, json_stream
from cslm.errors import AudioError, ConfigError
from tests.data import layouts

NAMES = ("text", "language", "speaker", "split", "start_s", "end_s")


def prepared(path, output, **settings):
    """Rows of the canonical manifest by id, its notices, and rejects by id."""
    section = CorpusSection(manifest=str(path), **settings)
    made = manifest.prepare(section, str(output))
    rows = [row for shard in made.shards for row in manifest.read_shard(str(output), shard["name"]).to_pylist()]
    return {row["id"]: row for row in rows}, made


def check(rows, expected):
    assert rows.keys() == expected.keys()
    for name, wanted in expected.items():
        found = rows[name]
        assert {key: found[key] for key in NAMES} == {key: wanted.get(key) for key in NAMES}, name
        if "bytes" in wanted:
            assert fetch.fetch(found["audio"]) == fetch.Fetched(
                wanted["bytes"], hashlib.sha256(wanted["bytes"]).hexdigest()
            )
        else:
            assert found["audio"] == wanted["audio"]


LAYOUTS = {
    "librispeech": (layouts.librispeech, "librispeech"),
    "mls_german": (layouts.mls, "mls"),
    "mls_german_opus": (lambda root: layouts.mls(root, "opus"), "mls"),
    "fr": (layouts.common_voice, "common_voice"),
    "data_aishell": (layouts.aishell, "aishell"),
    "gigaspeech": (layouts.gigaspeech, "gigaspeech"),
    "wenetspeech": (layouts.wenetspeech, "wenetspeech"),
    "kaldi": (layouts.kaldi, "kaldi"),
    "kaldi_whole": (lambda root: layouts.kaldi(root, segments=False), "kaldi"),
    "lhotse": (layouts.lhotse, "lhotse"),
    "lhotse_plain": (lambda root: layouts.lhotse(root, packed=False), "lhotse"),
    "webdataset": (layouts.webdataset, "webdataset"),
    "parquet": (layouts.huggingface_parquet, "huggingface"),
    "saved": (layouts.huggingface_saved, "huggingface"),
    "saved_file": (lambda root: layouts.huggingface_saved(root, kind="file"), "huggingface"),
    "saved_packed": (lambda root: layouts.huggingface_saved(root, compression="zstd"), "huggingface"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_told_and_every_row_is_taken(name, tmp_path):
    make, known = LAYOUTS[name]
    expected = make(tmp_path / name)
    rows, made = prepared(tmp_path / name, tmp_path / "out")
    check(rows, expected)
    assert made.rejected == {}
    assert made.num_rows == len(expected)
    assert made.notices[0] == f"read as {FORMATS[known].name}; corpus.format {known} says so"
    named, made = prepared(tmp_path / name, tmp_path / "named", format=known)
    assert named == rows
    assert made.notices == []


def test_a_layout_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match="must be auto or one of kaldi, aishell, mls"):
        CorpusSection(manifest="x", format="mp4")
    layouts.write(tmp_path / "c/notes.txt", "nothing\n")
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path / "c", tmp_path / "out")
    assert all(f": {name}" in str(caught.value) for name in FORMATS)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "audio_folder"])
def test_a_layout_that_is_not_there_is_told(name, tmp_path):
    layouts.write(tmp_path / "c/notes.txt", "nothing\n")
    with pytest.raises(ConfigError, match=r"corpus\.manifest: .*found"):
        prepared(tmp_path / "c", tmp_path / "out", format=name)


def test_a_language_that_the_user_gives_stands_in_for_that_of_the_layout(tmp_path):
    layouts.librispeech(tmp_path / "c")
    rows, _ = prepared(tmp_path / "c", tmp_path / "out", language="en-gb")
    assert {row["language"] for row in rows.values()} == {"en-GB"}


def test_a_recording_without_transcript_and_a_transcript_without_recording_are_both_rows(tmp_path):
    layouts.librispeech(tmp_path / "libri")
    layouts.write(tmp_path / "libri/dev-clean/9/9/9-9-0000.flac", layouts.clip(0))
    (tmp_path / "libri/dev-clean/1272/128104/1272-128104-0001.flac").unlink()
    rows, made = prepared(tmp_path / "libri", tmp_path / "out")
    assert rows["9-9-0000"]["text"] is None
    assert made.rejected == {"missing": 1}
    layouts.aishell(tmp_path / "aishell")
    layouts.write(tmp_path / "aishell/wav/train/S0002/new.wav", layouts.clip(0, "WAV"))
    (tmp_path / "aishell/wav/train/S0003/BAC009S0003W0001.wav").unlink()
    rows, made = prepared(tmp_path / "aishell", tmp_path / "out2")
    assert rows["new"]["text"] is None
    assert made.rejected == {"missing": 1}


def test_archives_of_aishell_that_are_still_packed_are_told(tmp_path):
    layouts.write(tmp_path / "c/transcript/aishell_transcript_v0.8.txt", "a 字\n")
    layouts.write(tmp_path / "c/wav/S0002.tar.gz", b"\x1f\x8b")
    with pytest.raises(ConfigError, match="unpack the archives in wav/"):
        prepared(tmp_path / "c", tmp_path / "out")


def test_languages_of_common_voice_may_lie_side_by_side(tmp_path):
    expected = layouts.common_voice(tmp_path / "cv/fr") | layouts.common_voice(tmp_path / "cv/zh-CN", "zh-CN", False)
    rows, made = prepared(tmp_path / "cv", tmp_path / "out")
    check(rows, expected)
    assert {shard["language"] for shard in made.shards} == {"fr", "zh-CN"}


def test_validated_clips_are_taken_when_named_and_held_out_ones_stay_held_out(tmp_path):
    expected = layouts.common_voice(tmp_path / "fr")
    rows, _ = prepared(tmp_path / "fr/validated.tsv", tmp_path / "out")
    assert rows.keys() - expected.keys() == {"common_voice_fr_000006"}
    assert {row["split"] for name, row in rows.items() if name not in expected} == {"train"}
    check({name: row for name, row in rows.items() if name in expected}, expected)
    rows, _ = prepared(tmp_path / "fr/dev.tsv", tmp_path / "out2")
    assert [row["split"] for row in rows.values()] == ["dev"]
    for name in ("train", "dev", "test"):
        (tmp_path / "fr" / f"{name}.tsv").unlink()
    rows, _ = prepared(tmp_path / "fr", tmp_path / "out3")
    assert len(rows) == 7


def test_clips_of_common_voice_stay_in_their_folder(tmp_path):
    layouts.common_voice(tmp_path / "fr")
    with (tmp_path / "fr/train.tsv").open("a") as stream:
        for path in ("../../../etc/passwd", "/etc/passwd"):
            stream.write("\t".join(["c", path, "", "x", *[""] * 7, "fr", ""]) + "\n")
        stream.write("too\tfew\n")
    _, made = prepared(tmp_path / "fr", tmp_path / "out")
    assert made.rejected == {"outside_root": 2, "unreadable_row": 1}


def test_tags_for_what_is_no_speech_are_rejected_with_a_reason(tmp_path):
    layouts.gigaspeech(tmp_path / "c")
    path = tmp_path / "c/GigaSpeech.json"
    text = path.read_text()
    for n, tag in enumerate(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>", "<APPLAUSE>")):
        text = text.replace(f"SO <COMMA> NUMBER {n % 2} IS HERE <QUESTIONMARK>", tag, 1)
    path.write_text(text)
    rows, made = prepared(tmp_path / "c", tmp_path / "out")
    assert made.rejected == {"no_speech": 4, "unknown_tag": 1}
    assert len(rows) == 1


def test_segments_without_times_or_with_ends_before_starts_are_rejected(tmp_path):
    layouts.wenetspeech(tmp_path / "c")
    path = tmp_path / "c/WenetSpeech.json"
    text = path.read_text().replace('"begin_time": 0.25, ', "", 1)
    path.write_text(text.replace('"begin_time": 0.25', '"begin_time": 0.9', 1))
    _, made = prepared(tmp_path / "c", tmp_path / "out")
    assert made.rejected == {"no_times": 1, "bad_span": 1}


def test_large_json_is_read_element_by_element(tmp_path, monkeypatch):
    expected = layouts.gigaspeech(tmp_path / "c")
    for block in (1, 7, 64):
        monkeypatch.setattr(json_stream, "_BLOCK", block)
        rows, _ = prepared(tmp_path / "c", tmp_path / f"out{block}", format="gigaspeech")
        check(rows, expected)
    path = tmp_path / "c/GigaSpeech.json"
    path.write_text(path.read_text()[:-400])
    rows, made = prepared(tmp_path / "c", tmp_path / "cut", format="gigaspeech")
    assert len(rows) == 4
    assert made.rejected == {"unreadable_container": 1}


def test_commands_and_archives_in_kaldi_folders_are_refused_and_never_run(tmp_path):
    canary = tmp_path / "canary"
    good = layouts.write(tmp_path / "good.wav", layouts.clip(0, "WAV"))
    lines = [f"a touch {canary} |", f"b |touch {canary}", "c /x/raw.ark:17", f"d {good}", "e ../../x.wav"]
    layouts.write(tmp_path / "data/train/wav.scp", "".join(line + "\n" for line in lines))
    rows, made = prepared(tmp_path / "data/train", tmp_path / "out", language="en")
    assert rows.keys() == {"d"}
    assert made.rejected == {"command": 2, "archive": 1, "outside_root": 1}
    assert not canary.exists()
    with pytest.raises(ConfigError, match="there is no utt2lang"):
        prepared(tmp_path / "data/train", tmp_path / "out")


def test_kaldi_files_in_any_order_are_joined(tmp_path):
    expected = layouts.kaldi(tmp_path / "c")
    for path in (tmp_path / "c").rglob("*"):
        if path.is_file() and path.suffix != ".wav":
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines[1::2], *reversed(lines[::2])]) + "\n")
    check(prepared(tmp_path / "c", tmp_path / "out")[0], expected)
    layouts.write(tmp_path / "c/train/split2/1/wav.scp", "rec00 /again.wav\n")
    check(prepared(tmp_path / "c", tmp_path / "out2")[0], expected)


def test_segments_of_recordings_that_are_not_listed_are_rejected(tmp_path):
    layouts.kaldi(tmp_path / "c")
    with (tmp_path / "c/train/segments").open("a") as stream:
        stream.write("u1 nowhere 0 1\nu2 rec00 0\n")
    _, made = prepared(tmp_path / "c", tmp_path / "out")
    assert made.rejected == {"missing": 1, "unreadable_row": 1}


def test_cuts_that_are_not_what_lies_on_disk_are_refused(tmp_path):
    layouts.lhotse(tmp_path / "c")
    path = tmp_path / "c/mini_cuts_dev.jsonl.gz"
    cut = json.loads(gzip.decompress(path.read_bytes()).splitlines()[0])
    recording = cut["recording"]
    other = {
        "command": [{"type": "command", "channels": [0], "source": "sox x |"}],
        "no_audio": [{"type": "memory", "channels": [0], "source": "UklGRg=="}],
        "channel": [{"type": "file", "channels": [0, 1], "source": "x.wav"}],
    }
    cuts = [cut | {"recording": recording | {"sources": sources}} for sources in other.values()]
    cuts.append(cut | {"recording": recording | {"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}})
    cuts.append({"id": "m", "type": "MixedCut", "tracks": [], "start": 0, "duration": 1, "recording": None})
    cuts.append({"id": "n", "type": "MonoCut", "start": 0})
    cuts.append(
        {"id": "whole", "start": 0.0, "duration": 1.0, "channel": 0, "supervisions": [], "recording": recording}
    )
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in cuts).encode()))
    rows, made = prepared(tmp_path / "c", tmp_path / "out", language="en")
    assert made.rejected == dict.fromkeys((*other, "transform", "mixed_cut", "unreadable_row"), 1)
    assert (rows["whole"]["start_s"], rows["whole"]["end_s"], rows["whole"]["text"]) == (0.0, 1.0, None)


def test_the_key_follows_the_files_that_tell_the_rows_and_not_the_clips(tmp_path):
    layouts.common_voice(tmp_path / "fr")
    section = CorpusSection(manifest=str(tmp_path / "fr"))
    key = manifest.source_key(section)
    layouts.write(tmp_path / "fr/clips/new.mp3", b"x")
    assert manifest.source_key(section) == key
    with (tmp_path / "fr/dev.tsv").open("a") as stream:
        stream.write("\n")
    assert manifest.source_key(section) != key


def test_the_name_of_a_format_that_was_recognised_changes_nothing(tmp_path):
    layouts.common_voice(tmp_path / "fr")
    keys = {
        manifest.source_key(CorpusSection(manifest=str(tmp_path / "fr"), format=name))
        for name in ("auto", "common_voice")
    }
    assert len(keys) == 1


def test_a_column_of_recordings_is_found_or_named(tmp_path):
    data = layouts.clip(1)
    table = pa.table({"voice": [data], "noise": [b"x"], "said": ["hello"], "key": ["k"]})
    pq.write_table(table, tmp_path / "a.parquet")
    names = {"audio": "voice", "text": "said", "id": "key"}
    rows, _ = prepared(tmp_path / "a.parquet", tmp_path / "out", language="en", columns=names)
    check(rows, {"k": {"bytes": data, "text": "hello", "language": "en", "split": "train"}})
    with pytest.raises(ConfigError, match="audio must name a column of bytes"):
        prepared(tmp_path / "a.parquet", tmp_path / "out", language="en", format="huggingface")


def test_rows_with_a_path_instead_of_bytes_are_read_from_there(tmp_path):
    layouts.write(tmp_path / "d/0.flac", layouts.clip(0))
    audio = [{"bytes": None, "path": "0.flac"}, {"bytes": layouts.clip(1), "path": None}, {"bytes": None, "path": None}]
    audio += [None, {"bytes": None, "path": "../x.flac"}]
    table = pa.table({"audio": pa.array(audio, layouts.AUDIO_TYPE)})
    pq.write_table(table, tmp_path / "d/a.parquet")
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    rows, made = prepared(tmp_path / "d", tmp_path / "out", language="en")
    assert made.rejected == {"no_audio": 2, "outside_root": 1}
    assert fetch.fetch(rows["a/0"]["audio"]).data == layouts.clip(0)
    assert fetch.fetch(rows["a/1"]["audio"]).data == layouts.clip(1)
    rows, made = prepared(tmp_path / "a.arrow", tmp_path / "out2", language="en")
    assert made.rejected == {"no_audio": 2, "outside_root": 1}
    assert fetch.fetch(rows["a/1"]["audio"]).data == layouts.clip(1)
    with pytest.raises(AudioError, match="found nothing"):
        fetch.fetch(rows["a/0"]["audio"])


def test_rows_that_name_no_language_are_told_at_once(tmp_path):
    layouts.tar(tmp_path / "a.tar", {"1.wav": layouts.clip(1, "WAV"), "2.wav": layouts.clip(2, "WAV")})
    with pytest.raises(ConfigError, match=r"corpus\.language: must be given, as none of the first 2 rows"):
        prepared(tmp_path / "a.tar", tmp_path / "out")
    rows, _ = prepared(tmp_path / "a.tar", tmp_path / "out", language="en")
    assert rows.keys() == {"a/1", "a/2"}


def test_a_storage_that_fails_while_a_table_is_read_is_no_damage_of_the_table(tmp_path, monkeypatch):
    layouts.huggingface_saved(tmp_path / "saved")
    entry = storage.entry

    def failing(uri):
        if uri.endswith("state.json"):
            raise OSError("AWS Error NETWORK_CONNECTION")
        return entry(uri)

    monkeypatch.setattr(storage, "entry", failing)
    with pytest.raises(OSError, match="NETWORK"):
        prepared(tmp_path / "saved/train", tmp_path / "out")


def test_a_saved_data_set_says_its_split_beside_it(tmp_path):
    layouts.huggingface_saved(tmp_path / "saved")
    rows, _ = prepared(tmp_path / "saved/test", tmp_path / "out")
    assert {row["split"] for row in rows.values()} == {"test"}


def test_a_manifest_with_columns_like_those_of_a_layout_stays_a_manifest(tmp_path):
    row = {"id": "a", "audio": "a.wav", "language": "en", "recording": "r", "tracks": 2}
    layouts.write(tmp_path / "c.jsonl", json.dumps(row) + "\n")
    _, made = prepared(tmp_path / "c.jsonl", tmp_path / "out")
    assert made.notices[0] == f"read as {FORMATS['manifest'].name}; corpus.format manifest says so"


def test_json_of_segments_may_be_packed(tmp_path):
    expected = layouts.gigaspeech(tmp_path / "c")
    plain = tmp_path / "c/GigaSpeech.json"
    layouts.write(tmp_path / "c/GigaSpeech.json.gz", gzip.compress(plain.read_bytes()))
    plain.unlink()
    check(prepared(tmp_path / "c", tmp_path / "out")[0], expected)


def test_folders_of_very_many_speakers_are_not_looked_into(tmp_path, monkeypatch):
    for n in range(501):
        layouts.write(tmp_path / f"c/s{n}/1.wav", b"x")
    looked, exists = [], storage.exists
    monkeypatch.setattr(storage, "exists", lambda uri: looked.append(uri) or exists(uri))
    rows, _ = prepared(tmp_path / "c", tmp_path / "out", language="en")
    assert len(rows) == 501
    assert len(looked) < 10

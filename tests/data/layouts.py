"""Miniatures of published corpora, each as it lies on disk after its own download and unpacking.

Every writer fills a folder with a few clips of true audio and returns what a reader should make of them, by id.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data import sounds

Expected = dict[str, dict[str, Any]]


def clip(seed: int, kind: str = "FLAC") -> bytes:
    """A quarter of a second of sound, different for every seed."""
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "OPUS"}.get(kind)
    return sounds.encoded(sounds.waveform(seed, 0.25), kind=kind, subtype=subtype)


def write(path: Path, data: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def librispeech(root: Path) -> Expected:
    expected = {}
    chapters = (("train-clean-100", "103", "1240", "train"), ("dev-clean", "1272", "128104", "dev"))
    for seed, (subset, speaker, chapter, split) in enumerate([*chapters, ("test-other", "1688", "142285", "test")]):
        folder, lines = root / subset / speaker / chapter, []
        for n in range(2):
            name = f"{speaker}-{chapter}-{n:04d}"
            lines.append(f"{name} CHAPTER {n} OF {speaker}")
            audio = write(folder / f"{name}.flac", clip(2 * seed + n))
            text = f"CHAPTER {n} OF {speaker}"
            expected[name] = {"audio": audio, "text": text, "speaker": speaker, "split": split, "language": "en"}
        write(folder / f"{speaker}-{chapter}.trans.txt", "\n".join(lines) + "\n")
    write(root / "SPEAKERS.TXT", "; the speakers\n103 | F | train-clean-100 | 25.0 | Somebody\n")
    return expected


def mls(root: Path, suffix: str = "flac") -> Expected:
    expected = {}
    for seed, split in enumerate(("train", "dev", "test")):
        lines = []
        for n in range(2):
            name = f"10{seed}_20{seed}_{n:06d}"
            lines.append(f"{name}\tsatz {n} für {split}")
            place = root / split / "audio" / f"10{seed}" / f"20{seed}" / f"{name}.{suffix}"
            audio = write(place, clip(2 * seed + n, "FLAC" if suffix == "flac" else "OGG"))
            told = {"audio": audio, "text": f"satz {n} für {split}", "speaker": f"10{seed}"}
            expected[name] = {**told, "split": split, "language": "de"}
        write(root / split / "transcripts.txt", "\n".join(lines) + "\n")
        write(
            root / split / "segments.txt", "".join(f"{line[:16]}\thttp://example.org/x.mp3\t1\t2\n" for line in lines)
        )
    write(root / "metainfo.txt", "SPEAKER | GENDER | PARTITION\n")
    return expected


def common_voice(root: Path, language: str = "fr", locale: bool = True) -> Expected:
    names = [
        "client_id",
        "path",
        "sentence_id",
        "sentence",
        "sentence_domain",
        "up_votes",
        "down_votes",
        "age",
        "gender",
    ]
    names += ["accents", "variant", *(["locale"] if locale else []), "segment"]
    expected, tables = {}, {"train": [], "dev": [], "test": [], "validated": []}
    for seed in range(7):
        split = ("train", "train", "train", "dev", "test", "test", "validated")[seed]
        name = f"common_voice_{language}_{seed:06d}"
        audio = write(root / "clips" / f"{name}.mp3", clip(seed, "MP3"))
        row = dict.fromkeys(names, "") | {"client_id": f"{seed % 3:064x}", "path": f"{name}.mp3", "locale": language}
        row |= {"sentence": f'Elle a dit "oui, {seed}".', "up_votes": "2", "down_votes": "0"}
        tables[split].append(row)
        if split != "validated":
            tables["validated"].append(row)
            told = {"audio": audio, "text": row["sentence"], "speaker": row["client_id"]}
            expected[name] = {**told, "split": split, "language": language}
    for split, rows in tables.items():
        lines = ["\t".join(names), *("\t".join(row[name] for name in names) for row in rows)]
        write(root / f"{split}.tsv", "\n".join(lines) + "\n")
    write(root / "clip_durations.tsv", "clip\tduration[ms]\n")
    write(root / "reported.tsv", "sentence\tsentence_id\tlocale\treason\n")
    return expected


def aishell(root: Path) -> Expected:
    expected, lines = {}, []
    for seed, (split, speaker) in enumerate(
        (("train", "S0002"), ("train", "S0003"), ("dev", "S0724"), ("test", "S0764"))
    ):
        name = f"BAC009{speaker}W{seed:04d}"
        lines.append(f"{name} 而 对 楼市 成交 GDP 作用 最 大")
        audio = write(root / "wav" / split / speaker / f"{name}.wav", clip(seed, "WAV"))
        told = {"audio": audio, "text": "而对楼市成交 GDP 作用最大", "speaker": speaker}
        expected[name] = {**told, "split": split, "language": "zh"}
    write(root / "transcript" / "aishell_transcript_v0.8.txt", "\n".join(lines) + "\n")
    return expected


def gigaspeech(root: Path) -> Expected:
    audios, expected = [], {}
    subsets = (["{XL}", "{L}"], ["{DEV}"], ["{TEST}"])
    for seed, subset in enumerate(subsets):
        aid = f"YOU000000000{seed}"
        path = f"audio/youtube/P0000/{aid}.opus"
        audio = write(root / path, sounds.encoded(sounds.waveform(seed, 1.0), kind="OGG", subtype="OPUS"))
        segments = []
        for n in range(2):
            segment = {"sid": f"{aid}_S{n:07d}", "speaker": "N/A", "begin_time": n / 2, "end_time": n / 2 + 0.5}
            segment |= {"subsets": subset, "text_tn": f"SO <COMMA> NUMBER {n} IS HERE <QUESTIONMARK>"}
            segments.append(segment)
            told = {"audio": audio, "text": f"SO, NUMBER {n} IS HERE?", "speaker": None, "language": "en"}
            split = ("train", "dev", "test")[seed]
            expected[segment["sid"]] = {**told, "start_s": n / 2, "end_s": n / 2 + 0.5, "split": split}
        audios.append(
            {
                "title": "A talk",
                "url": "https://example.org",
                "path": path,
                "aid": aid,
                "source": "YouTube",
                "codec": "opus",
            }
            | {"channels": 1, "md5": "0" * 32, "speaker": "N/A", "category": "Education", "duration": 1.0}
            | {"subsets": subset, "segments": segments}
        )
    document = {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": audios}
    write(root / "GigaSpeech.json", json.dumps(document, indent=1))
    return expected


def wenetspeech(root: Path) -> Expected:
    audios, expected = [], {}
    for seed, (place, subsets) in enumerate((("train", ["L", "M"]), ("dev", ["DEV"]), ("test_net", ["TEST_NET"]))):
        aid = f"Y000000000{seed}"
        path = f"audio/{place}/youtube/B00000/{aid}.opus"
        audio = write(root / path, sounds.encoded(sounds.waveform(seed, 1.0), kind="OGG", subtype="OPUS"))
        sid = f"{aid}_S00000"
        segment = {"sid": sid, "confidence": 1.0, "begin_time": 0.25, "end_time": 0.75, "subsets": subsets}
        audios.append(
            {"aid": aid, "duration": 1.0, "md5": "0" * 32, "path": path, "source": "youtube", "tags": ["drama"]}
            | {"url": "https://example.org", "segments": [segment | {"text": f"今天是{seed}号"}]}
        )
        told = {"audio": audio, "text": f"今天是{seed}号", "language": "zh", "start_s": 0.25, "end_s": 0.75}
        expected[sid] = {**told, "split": ("train", "dev", "test")[seed], "speaker": None}
    write(root / "WenetSpeech.json", json.dumps({"audios": audios}, ensure_ascii=False))
    return expected


def kaldi(root: Path, segments: bool = True) -> Expected:
    """A folder of two data folders; the audio lies beside them and is named by its whole path."""
    expected = {}
    for seed, split in enumerate(("train", "test")):
        scp, spans, texts, speakers, languages = [], [], [], [], []
        for n in range(3):
            recording = f"rec{seed}{n}"
            audio = write(root / "audio" / f"{recording}.wav", sounds.encoded(sounds.waveform(3 * seed + n, 1.0)))
            scp.append(f"{recording} {audio}")
            for part in range(2 if segments else 1):
                name = f"spk{n}-{recording}-{part}" if segments else recording
                start_s, end_s = (0.5 * part, 0.5 if part == 0 else None) if segments else (None, None)
                spans.append(f"{name} {recording} {start_s} {-1 if end_s is None else end_s}")
                texts.append(f"{name} words of {name}")
                speakers.append(f"{name} spk{n}")
                languages.append(f"{name} {'en' if n else 'sw'}")
                told = {"audio": audio, "text": f"words of {name}", "speaker": f"spk{n}", "split": split}
                expected[name] = {**told, "language": "en" if n else "sw", "start_s": start_s, "end_s": end_s}
        files = {"wav.scp": scp, "text": texts, "utt2spk": speakers, "utt2lang": languages}
        for name, lines in (files | ({"segments": spans} if segments else {})).items():
            write(root / split / name, "".join(line + "\n" for line in sorted(lines)))
    return expected


def lhotse(root: Path, packed: bool = True) -> Expected:
    expected = {}
    for seed, split in enumerate(("train", "dev")):
        lines = []
        for n in range(2):
            audio = write(root / "wavs" / f"{split}{n}.wav", sounds.encoded(sounds.waveform(2 * seed + n, 1.0)))
            recording = {"id": f"{split}{n}", "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
            recording |= {"channel_ids": [0], "sources": [{"type": "file", "channels": [0], "source": audio}]}
            supervisions = []
            for part in range(n + 1):
                one = {"id": f"sup{part}", "recording_id": f"{split}{n}", "start": 0.25 * part, "duration": 0.25}
                one |= {"channel": 0, "text": f"part {part}", "language": "en", "speaker": f"s{seed}"}
                supervisions.append(one)
                name = f"{split}-cut{n}" + (f"/sup{part}" if n else "")
                told = {"audio": audio, "text": f"part {part}", "speaker": f"s{seed}", "split": split, "language": "en"}
                expected[name] = {**told, "start_s": 0.5 + 0.25 * part, "end_s": 0.75 + 0.25 * part}
            cut = {"id": f"{split}-cut{n}", "start": 0.5, "duration": 0.5, "channel": 0, "type": "MonoCut"}
            lines.append(json.dumps(cut | {"supervisions": supervisions, "recording": recording}))
        data = ("\n".join(lines) + "\n").encode()
        if packed:
            write(root / f"mini_cuts_{split}.jsonl.gz", gzip.compress(data))
        else:
            write(root / f"mini_cuts_{split}.jsonl", data)
    return expected


def tar(path: Path, members: dict[str, bytes]) -> None:
    """Write members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def webdataset(root: Path) -> dict[str, dict[str, Any]]:
    """Rows by id, with `bytes` in place of the address."""
    expected = {}
    kinds = {"flac": "FLAC", "wav": "WAV", "mp3": "MP3", "opus": "OGG"}
    for shard, split in (("train-0000", "train"), ("train-0001", "train"), ("dev-0000", "dev")):
        members = {}
        for n, (suffix, kind) in enumerate(kinds.items()):
            data = clip(n + len(expected), kind)
            key = f"part/{n:04d}"
            members[f"{key}.{suffix}"] = data
            members[f"{key}.json"] = json.dumps({"language": "es", "speaker": f"s{n}", "text": "is not it"}).encode()
            members[f"{key}.txt"] = f"frase número {n}\n".encode()
            told = {"bytes": data, "text": f"frase número {n}", "speaker": f"s{n}"}
            expected[f"{shard}/{key}"] = {**told, "split": split, "language": "es"}
        tar(root / f"{shard}.tar", members)
    return expected


AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"audio": {"sampling_rate": 16000, "_type": "Audio"}, "sentence": {"dtype": "string", "_type": "Value"}}


def audio_table(first: int, num_rows: int, null_bytes: bool = False) -> tuple[pa.Table, list[bytes]]:
    """A table with a Hugging Face audio column, as `datasets` writes it."""
    clips = [clip(first + n) for n in range(num_rows)]
    audio = [{"bytes": None if null_bytes else data, "path": f"{first + n}.flac"} for n, data in enumerate(clips)]
    columns = {
        "client_id": pa.array([f"c{n % 2}" for n in range(num_rows)]),
        "audio": pa.array(audio, AUDIO_TYPE),
        "sentence": pa.array([f"sentence {first + n}" for n in range(num_rows)]),
        "up_votes": pa.array([2] * num_rows),
        "locale": pa.array(["sw"] * num_rows),
    }
    metadata = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}
    return pa.table(columns).replace_schema_metadata(metadata), clips


def huggingface_parquet(root: Path) -> dict[str, dict[str, Any]]:
    expected: dict[str, dict[str, Any]] = {}
    for part, (name, split) in enumerate(
        (("train-00000-of-00002", "train"), ("train-00001-of-00002", "train"), ("validation-00000-of-00001", "dev"))
    ):
        table, clips = audio_table(5 * part, 5)
        (root / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / "data" / f"{name}.parquet", row_group_size=2)
        for n, data in enumerate(clips):
            told = {"bytes": data, "text": f"sentence {5 * part + n}", "speaker": f"c{n % 2}"}
            expected[f"data/{name}/{n}"] = {**told, "split": split, "language": "sw"}
    write(root / "README.md", "---\ndataset_info: {}\n---\n")
    return expected


def huggingface_saved(root: Path, compression: str | None = None, kind: str = "stream") -> dict[str, dict[str, Any]]:
    """What `DatasetDict.save_to_disk` leaves."""
    expected: dict[str, dict[str, Any]] = {}
    write(root / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    for part, split in enumerate(("train", "test")):
        table, clips = audio_table(10 + 5 * part, 5)
        name = "data-00000-of-00001"
        (root / split).mkdir(parents=True, exist_ok=True)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with make(root / split / f"{name}.arrow", table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=2)
        write(
            root / split / "state.json", json.dumps({"_data_files": [{"filename": f"{name}.arrow"}], "_split": split})
        )
        write(root / split / "dataset_info.json", json.dumps({"features": FEATURES}))
        for n, data in enumerate(clips):
            told = {"bytes": data, "text": f"sentence {10 + 5 * part + n}", "speaker": f"c{n % 2}"}
            expected[f"{split}/{name}/{n}"] = {**told, "split": split, "language": "sw"}
    return expected

"""WebDataset: tar files whose members are grouped by name: `<key>.flac`, `<key>.txt`, `<key>.json`.

A tar is not unpacked: its headers are read, over whatever lies between them, and a row's `audio` says which bytes of
the tar are its recording.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cslm import storage
from cslm.data import locators
from cslm.data.corpora.source import AUDIO_SUFFIXES, Row, Source, fault, split_in, stem
from cslm.errors import ConfigError
from cslm.storage import Entry

# What is read with a header: on object stores the small texts beside it and the next header for the same request.
_LOCAL_BLOCK, _REMOTE_BLOCK = 4 << 10, 128 << 10
_TARS_AT_ONCE = 8
_MAX_TEXT_BYTES = 16 << 20


def recognises(source: Source) -> bool:
    """Whether it is a tar or a folder of such."""
    return bool(source.ending(".tar", ".tar.gz", ".tgz"))


def facts(source: Source) -> list[Entry]:
    """The tars."""
    return source.ending(".tar", ".tar.gz", ".tgz")


def rows(source: Source) -> Iterator[Row]:
    """One row a sample, in the order of the tars."""
    found = facts(source)
    if not found:
        raise ConfigError(f"corpus.manifest: must be a tar file or a folder of such, found none in {source.uri}")
    if not any(storage.is_uri(entry.uri) for entry in found):
        for entry in found:
            yield from _tar(source, entry)
        return
    # Headers cost a request each, so that several tars are gone through at a time.
    with ThreadPoolExecutor(_TARS_AT_ONCE) as pool:
        pending = [pool.submit(lambda one: list(_tar(source, one)), entry) for entry in found[:_TARS_AT_ONCE]]
        for place in range(len(found)):
            yield from pending.pop(0).result()
            if place + _TARS_AT_ONCE < len(found):
                pending.append(pool.submit(lambda one: list(_tar(source, one)), found[place + _TARS_AT_ONCE]))


def _tar(source: Source, entry: Entry) -> Iterator[Row]:
    uri = entry.uri
    if not uri.lower().endswith(".tar"):
        message = f"a tar must not be compressed, for its members to be read where they lie, found {uri}; gunzip it"
        yield fault("compressed_tar", message, audio=uri, container=True)
        return
    inner = source.inner(uri)
    shard = _Shard(source, uri, stem(inner), split_in(*inner.split("/")))
    sample: _Sample | None = None
    block = _REMOTE_BLOCK if storage.is_uri(uri) else _LOCAL_BLOCK
    num_samples = 0
    with io.BufferedReader(storage.open_input(uri), block) as stream:
        problem = "no member"
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    # tarfile would keep all members.
                    tar.members = []  # type: ignore[attr-defined]
                    key, ending = _parts(member.name)
                    if member.isdir() or not ending or key.rpartition("/")[2].startswith("."):
                        continue
                    if sample is not None and sample.key != key:
                        yield shard.row(sample)
                        num_samples += 1
                        sample = None
                    sample = sample or _Sample(key)
                    sample.add(tar, member, ending)
                # tarfile takes whatever is no header for the end.
                stream.seek(tar.offset)
                problem = "" if stream.read(512) == bytes(512) else f"no end mark at byte {tar.offset}"
        except (tarfile.TarError, EOFError) as error:
            problem = str(error)
    if sample is not None and not problem:
        yield shard.row(sample)
        num_samples += 1
    if not problem and not num_samples:
        problem = "no member with a recording"
    if problem:
        last = f" after {sample.key}" if sample else ""
        message = f"{uri} must be a whole tar, found damage{last}: {problem}; copy the file again"
        yield fault("truncated_tar" if num_samples or sample else "not_a_tar", message, audio=uri, container=True)


class _Sample:
    """Members of one key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.audio: list[tuple[int, int]] = []
        self.texts: dict[str, bytes] = {}
        self.problem: tuple[str, str] | None = None

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
        name = member.name
        if name.startswith("/") or ".." in name.split("/"):
            self.problem = ("outside_root", f"members of a tar must lie below it, found {name}")
        elif not member.isreg() or member.issparse():
            self.problem = ("not_a_file", f"members of a tar must be files, found {name} to be a link or a device")
        elif ending.endswith(AUDIO_SUFFIXES):
            self.audio.append((member.offset_data, member.size))
        elif ending in (".txt", ".json") and member.size > _MAX_TEXT_BYTES:
            self.problem = (
                "bad_value",
                f"texts must be of {_MAX_TEXT_BYTES >> 20} MB at most, found {name} to be longer",
            )
        elif ending in (".txt", ".json"):
            stream = tar.extractfile(member)
            self.texts[ending] = stream.read() if stream is not None else b""


class _Shard:
    """Samples of one tar -> rows."""

    def __init__(self, source: Source, uri: str, name: str, split: str | None) -> None:
        self._source, self._uri, self._name, self._split = source, uri, name, split

    def row(self, sample: _Sample) -> Row:
        name = f"{self._name}/{sample.key}"
        if sample.problem:
            return fault(*sample.problem, id=name, audio=self._uri)
        if len(sample.audio) != 1:
            message = f"a sample must have one recording ({', '.join(AUDIO_SUFFIXES)}), found {len(sample.audio)}"
            return fault("no_audio" if not sample.audio else "bad_value", message, id=name, audio=self._uri)
        try:
            told = json.loads(sample.texts.get(".json") or "{}")
            text = sample.texts[".txt"].decode("utf-8-sig").strip() if ".txt" in sample.texts else None
        except (ValueError, RecursionError) as error:
            message = f"{sample.key}.json and .txt must be UTF-8 JSON and text, found {error}"
            return fault("unreadable_row", message, id=name, audio=self._uri)
        row: Row = {"id": name, "audio": locators.of_bytes(self._uri, *sample.audio[0]), "split": self._split}
        if isinstance(told, dict):
            row |= self._fields(told)
        return row | ({"text": text} if text is not None else {})

    def _fields(self, told: dict[str, Any]) -> Row:
        row: Row = {}
        for ours in ("id", "text", "language", "speaker", "split"):
            theirs = self._source.columns.get(ours) or self._source.column(ours, told)
            if theirs is not None and told.get(theirs) is not None:
                row[ours] = told[theirs]
        return row


def _parts(name: str) -> tuple[str, str]:
    """The key of a member and its ending: everything from the first dot of its file name on, in lower case."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    first, dot, rest = file.partition(".")
    return f"{folder}{slash}{first}", f"{dot}{rest}".lower()

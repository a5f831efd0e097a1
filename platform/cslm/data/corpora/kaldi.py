"""Kaldi data folders: `wav.scp`, and beside it `segments`, `text`, `utt2spk`, `utt2lang`, each by utterance.

Kaldi keeps its files sorted, so that they are joined as streams; a file that is not sorted is held in memory.
Commands in `wav.scp` are never run.
"""

import itertools
import re
from collections.abc import Iterator

from cslm import storage
from cslm.data.corpora import text
from cslm.data.corpora.source import CONTAINER, FAULT, REASON, Row, Source, fault, split_in
from cslm.errors import ConfigError
from cslm.storage import Entry

_SCP = "wav.scp"
_BESIDE = ("segments", "text", "utt2spk", "utt2lang")
_ARCHIVE = re.compile(r".*\.ark:\d+")


def recognises(source: Source) -> bool:
    """Whether it is a data folder, or a folder of such."""
    return bool(_folders(source))


def facts(source: Source) -> list[Entry]:
    """The files that are read."""
    places = [storage.join(folder, name) for folder in _folders(source) for name in (_SCP, *_BESIDE)]
    found = [storage.entry(place) for place in places]
    return [entry for entry in found if entry is not None]


def rows(source: Source) -> Iterator[Row]:
    """One row an utterance: a line of `segments`, or of `wav.scp` where there are none."""
    folders = _folders(source)
    if not folders:
        raise ConfigError(f"corpus.manifest: a Kaldi data folder must hold {_SCP}, found none in {source.uri}")
    for folder in folders:
        here = {name for name in _BESIDE if storage.entry(storage.join(folder, name))}
        language = source.language
        if "utt2lang" not in here:
            language = source.needs_language(f"there is no utt2lang in {folder}")
        texts, speakers, languages = (
            _Column(storage.join(folder, name) if name in here else None) for name in ("text", "utt2spk", "utt2lang")
        )
        split = split_in(storage.name(folder))
        utterances = _segments(source, folder) if "segments" in here else _recordings(source, folder)
        for row in utterances:
            name = row["id"]
            if name is None:
                yield row
                continue
            told = {"text": texts.get(name), "speaker": speakers.get(name), "split": split}
            yield {**told, "language": languages.get(name) or language, **row}
        yield from (problem for column in (texts, speakers, languages) for problem in column.problems)


def _folders(source: Source) -> list[str]:
    _, files = source.top
    if _SCP in files:
        return [source.folder]
    # The parts that Kaldi cuts a data folder into hold its rows again.
    found = source.folders_with(_SCP)
    return [folder for folder in found if not re.fullmatch(r"split\d+(utt)?", storage.name(folder))]


def _recordings(source: Source, folder: str) -> Iterator[Row]:
    for line in text.fields(storage.join(folder, _SCP)):
        yield line if isinstance(line, dict) else {"id": line[0], **_audio(source, folder, line[1])}


def _segments(source: Source, folder: str) -> Iterator[Row]:
    recordings = _Column(storage.join(folder, _SCP))
    for line in text.fields(storage.join(folder, "segments")):
        if isinstance(line, dict):
            yield line
            continue
        name, parts = line[0], line[1].split()
        if len(parts) not in (3, 4):
            message = f"segments must be <utterance> <recording> <start> <end>, found {' '.join(line)[:80]}"
            yield fault("unreadable_row", message, id=name)
            continue
        place = recordings.get(parts[0])
        if place is None:
            yield fault("missing", f"segments must name a recording of {_SCP}, found {parts[0]}", id=name)
            continue
        # Kaldi's own mark for the end of the recording is -1.
        end = None if parts[2] in ("-1", "-1.0") else parts[2]
        yield {"id": name, "start_s": parts[1], "end_s": end, **_audio(source, folder, place)}
    yield from recordings.problems


def _audio(source: Source, folder: str, place: str) -> Row:
    if place.endswith("|") or place.startswith("|"):
        message = f"audio must be a file, found the command {place[:80]!r}, which is not run; write its output to files"
        return {"audio": place, FAULT: message, REASON: "command"}
    if _ARCHIVE.fullmatch(place):
        message = f"audio must be a file, found a place in a Kaldi archive, {place}; copy the recordings to files"
        return {"audio": place, FAULT: message, REASON: "archive"}
    return source.audio(place, folder)


class _Column:
    """Values by key of one file, asked for in the order of the keys: read along, or held where that cannot be."""

    def __init__(self, uri: str | None) -> None:
        self.problems: list[Row] = []
        self._uri = uri
        self._lines = self._read() if uri else iter(())
        self._asked = ""
        self._held: dict[str, str] | None = None
        if uri and not all(one[0] <= other[0] for one, other in itertools.pairwise(self._read())):
            self._hold()
        self._head = next(self._lines, None)

    def get(self, key: str) -> str | None:
        """The value of a key."""
        if self._held is None and key < self._asked:
            self._hold()
        self._asked = key
        if self._held is not None:
            return self._held.get(key)
        while self._head is not None and self._head[0] < key:
            self._head = next(self._lines, None)
        return self._head[1] if self._head is not None and self._head[0] == key else None

    def _hold(self) -> None:
        self._held = dict(self._read())

    def _read(self) -> Iterator[tuple[str, str]]:
        problems: list[Row] = []
        for line in text.fields(str(self._uri)):
            if isinstance(line, dict):
                problems.append({**line, CONTAINER: False})
            else:
                yield line
        # Once, however often the file is read.
        self.problems = problems

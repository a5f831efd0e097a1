"""GigaSpeech and WenetSpeech: one large JSON of recordings, `audios`, with the spans of each, `segments`."""

import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from cslm import storage
from cslm.data.corpora import json_stream
from cslm.data.corpora.source import FAULT, REASON, Row, Source, fault, split_in
from cslm.errors import ConfigError
from cslm.storage import Entry

# Words that stand for marks in GigaSpeech, and for what is no speech (its paper, section on text normalisation).
_MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_NO_SPEECH = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")
_MARK = re.compile(r"\s*(" + "|".join(_MARKS) + ")")
_TAG = re.compile(r"<[A-Z_]+>")
_LANGUAGE = re.compile(r'"language"\s*:\s*"([^"]*)"')
# Within it is the first segment of the first recording.
_HEAD_BYTES = 64 << 10
_MAX_FILES = 32


def recognises_gigaspeech(source: Source) -> bool:
    """Whether it is GigaSpeech's JSON or the folder with it."""
    return any('"text_tn"' in _head(entry.uri) for entry in facts(source)[:1])


def recognises_wenetspeech(source: Source) -> bool:
    """Whether it is WenetSpeech's JSON or the folder with it."""
    heads = [_head(entry.uri) for entry in facts(source)[:1]]
    return any('"segments"' in head and '"text"' in head and '"text_tn"' not in head for head in heads)


def facts(source: Source) -> list[Entry]:
    """The JSON files: the one given, or those right in the folder that hold recordings."""
    _, files = source.top
    names = [name for name in files if name.lower().endswith((".json", ".json.gz"))]
    places = [storage.join(source.folder, name) for name in names]
    if len(places) > _MAX_FILES:
        return []
    found = [storage.entry(place) for place in places if '"audios"' in _head(place)]
    return [entry for entry in found if entry is not None]


def gigaspeech(source: Source) -> Iterator[Row]:
    """One row a segment of GigaSpeech."""
    return _rows(source, "text_tn", "en")


def wenetspeech(source: Source) -> Iterator[Row]:
    """One row a segment of WenetSpeech."""
    return _rows(source, "text", "zh")


def _rows(source: Source, text_name: str, language: str) -> Iterator[Row]:
    found = facts(source)
    if not found:
        raise ConfigError(f'corpus.manifest: must be a JSON file with "audios", or its folder, found {source.uri}')
    for entry in found:
        base = storage.parent(entry.uri)
        for preamble, recording in json_stream.objects(entry.uri, "audios"):
            told = _LANGUAGE.search(preamble)
            fixed = source.language or (told[1].lower() if told else language)
            yield from _recording(source, entry.uri, base, recording, text_name, fixed)


def _recording(source: Source, uri: str, base: str, recording: Any, text_name: str, language: str) -> Iterator[Row]:
    if isinstance(recording, Mapping) and FAULT in recording:
        yield dict(recording)
        return
    if not isinstance(recording, Mapping) or not isinstance(recording.get("segments"), list):
        name = recording.get("aid") if isinstance(recording, Mapping) else None
        yield fault("unreadable_row", f'recordings in {uri} must have a list of "segments", found none', id=name)
        return
    audio = source.audio(recording.get("path"), base, absolute=False)
    for segment in recording["segments"]:
        if not isinstance(segment, Mapping):
            yield fault("unreadable_row", f"segments in {uri} must be objects, found {str(segment)[:40]}")
            continue
        subsets = segment.get("subsets") or recording.get("subsets") or []
        row = {
            "id": segment.get("sid"),
            "language": language,
            "speaker": _speaker(segment) or _speaker(recording),
            "start_s": segment.get("begin_time"),
            "end_s": segment.get("end_time"),
            "split": split_in(*sorted(str(one).strip("{}") for one in subsets)),
            **_transcript(segment.get(text_name)),
            **audio,
        }
        if row["start_s"] is None or row["end_s"] is None:
            row |= {FAULT: "a segment must have begin_time and end_time, found none; mend it", REASON: "no_times"}
        yield row


def _transcript(text: Any) -> Row:
    if not isinstance(text, str):
        return {"text": text}
    plain = _MARK.sub(lambda match: _MARKS[match[1]], text).strip()
    tags = _TAG.findall(plain)
    if not tags:
        return {"text": plain}
    if any(tag in _NO_SPEECH for tag in tags):
        return {"text": text, FAULT: f"a segment must hold speech, its transcript says {text}", REASON: "no_speech"}
    known = ", ".join([*_MARKS, *_NO_SPEECH])
    return {"text": text, FAULT: f"tags must be of {known}, found {text[:80]}", REASON: "unknown_tag"}


def _speaker(of: Mapping[str, Any]) -> str | None:
    name = of.get("speaker")
    return name if isinstance(name, str) and name != "N/A" else None


def _head(uri: str) -> str:
    data = storage.read_range(uri, 0, _HEAD_BYTES)
    if uri.lower().endswith(".gz"):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, _HEAD_BYTES)
        except zlib.error:
            return ""
    return data.decode("utf-8", errors="replace")

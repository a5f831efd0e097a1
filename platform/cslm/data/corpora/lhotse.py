"""Lhotse cuts: `*.jsonl` or `*.jsonl.gz`, a cut of a recording a line, each with its supervisions."""

from collections.abc import Iterator, Mapping
from typing import Any

from cslm import storage
from cslm.data.corpora import text
from cslm.data.corpora.source import FAULT, REASON, Row, Source, fault, split_within, suffix
from cslm.errors import ConfigError
from cslm.storage import Entry


def recognises(source: Source) -> bool:
    """Whether the first line of the first file is a cut."""
    found = facts(source)
    if not found:
        return False
    first = text.first_row(found[0].uri)
    kinds = {"recording": Mapping, "supervisions": list, "tracks": list}
    return any(isinstance(first.get(name), kind) for name, kind in kinds.items())


def facts(source: Source) -> list[Entry]:
    """The files of cuts; where other JSON lines lie beside them, by their names."""
    found = [entry for entry in source.entries if suffix(entry.uri) in (".jsonl", ".jsonl.gz")]
    named = [entry for entry in found if "cuts" in storage.name(entry.uri).lower()]
    return named or found


def rows(source: Source) -> Iterator[Row]:
    """One row a supervision; one a cut that has none."""
    found = facts(source)
    if not found:
        raise ConfigError(f"corpus.manifest: must hold lhotse cuts, *.jsonl or *.jsonl.gz, found none in {source.uri}")
    for entry in found:
        split = split_within(source.inner(entry.uri))
        for cut in text.json_lines(entry.uri):
            if FAULT in cut:
                yield cut
                continue
            for row in _of_cut(source, storage.parent(entry.uri), cut):
                yield {"split": split, **row}


def _of_cut(source: Source, base: str, cut: Row) -> Iterator[Row]:
    name = cut.get("id")
    try:
        audio = _audio(source, base, cut)
        start_s, duration_s = float(cut["start"]), float(cut["duration"])
        supervisions = cut.get("supervisions") or []
        if not supervisions:
            yield {"id": name, "start_s": start_s, "end_s": start_s + duration_s, **audio}
        for one in supervisions:
            begin_s = start_s + float(one["start"])
            yield {
                "id": name if len(supervisions) == 1 else f"{name}/{one['id']}",
                "text": one.get("text"),
                "language": one.get("language"),
                "speaker": one.get("speaker"),
                # A supervision may reach out of the cut, and its sound then is not all there.
                "start_s": max(begin_s, start_s),
                "end_s": min(begin_s + float(one["duration"]), start_s + duration_s),
                **audio,
            }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        yield fault("unreadable_row", f"a cut must have id, start, duration and a recording, found {found}", id=name)


def _audio(source: Source, base: str, cut: Mapping[str, Any]) -> Row:
    kind = cut.get("type", "MonoCut")
    recording = cut.get("recording")
    if kind != "MonoCut" or "tracks" in cut:
        return _refused("mixed_cut", f"a cut must be of one channel of one recording, found a {kind}")
    if recording is None:
        return _refused("no_audio", "a cut must name its recording, found none; describe the corpus by its recordings")
    sources = recording["sources"]
    if len(sources) != 1 or len(sources[0].get("channels", [0])) != 1:
        channel = cut.get("channel", 0)
        found = f"channel {channel} of a recording with several; export it to a file of its own"
        return _refused("channel", f"a recording must have one channel, found {found}")
    if recording.get("transforms"):
        return _refused("transform", "a recording must be as it lies, found transforms; save the changed audio")
    place, kind = sources[0]["source"], sources[0]["type"]
    if kind == "command":
        message = f"audio must be a file, found the command {place[:80]!r}, which is not run; write its output to files"
        return {"audio": place, **_refused("command", message)}
    if kind not in ("file", "url"):
        return _refused("no_audio", f"sources must be of type file or url, found {kind}; save the cuts with files")
    return source.audio(place, base)


def _refused(reason: str, message: str) -> Row:
    return {FAULT: message, REASON: reason}

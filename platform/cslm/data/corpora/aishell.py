"""AISHELL-1: `wav/<split>/<speaker>/<id>.wav` and `transcript/*.txt` with a line `<id> <words>` for each."""

import re
from collections.abc import Iterator

from cslm import storage
from cslm.data.corpora import text
from cslm.data.corpora.source import Row, Source, fault, split_in, stem
from cslm.errors import ConfigError

# Its words are set apart by spaces, which are no part of how Chinese is written.
_BETWEEN_HAN = re.compile(r"(?<=[\u3400-\u9fff])\s+(?=[\u3400-\u9fff])")


def recognises(source: Source) -> bool:
    """Whether its two folders are there."""
    folders, _ = source.top
    return "wav" in folders and "transcript" in folders


def rows(source: Source) -> Iterator[Row]:
    """One row a recording, and a fault for a transcript without one."""
    inner = [(entry.uri, source.inner(entry.uri)) for entry in source.entries]
    audio = [(uri, place) for uri, place in inner if place.startswith("wav/") and place.lower().endswith(".wav")]
    transcripts = [uri for uri, place in inner if re.fullmatch(r"transcript/[^/]*\.txt", place)]
    if not transcripts or not audio:
        packed = any(place.startswith("wav/") and place.endswith(".tar.gz") for _, place in inner)
        raise ConfigError(
            f"corpus.manifest: AISHELL must hold wav/<split>/<speaker>/*.wav and transcript/*.txt, found {len(audio)} "
            f"recordings and {len(transcripts)} transcripts in {source.uri}"
            + ("; unpack the archives in wav/" if packed else "")
        )
    texts: dict[str, str] = {}
    for uri in transcripts:
        for line in text.fields(uri):
            if isinstance(line, dict):
                yield line
            else:
                texts[line[0]] = _BETWEEN_HAN.sub("", line[1])
    for uri, place in audio:
        name = stem(storage.name(uri))
        parts = place.split("/")
        yield {
            "id": name,
            "audio": uri,
            "text": texts.pop(name, None),
            "language": source.language or "zh",
            "speaker": parts[-2] if len(parts) > 2 else None,
            "split": split_in(*parts[1:-1]),
        }
    for name in texts:
        message = f"transcripts must have a recording, found none of {name} in {source.uri}/wav; copy it"
        yield fault("missing", message, id=name)

"""Which layouts of corpora are known: the table of their readers, how one is chosen, and the settings for it.

A corpus is read as it lies, without unpacking or converting it first.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import field_validator

from cslm import storage
from cslm.config import REQUIRED, Section, setting
from cslm.data.corpora import (
    aishell,
    audio_folder,
    common_voice,
    huggingface,
    kaldi,
    lhotse,
    librispeech,
    manifests,
    mls,
    segmented_json,
    webdataset,
)
from cslm.data.corpora.source import COLUMNS, CONTAINER, FAULT, Row, Source
from cslm.errors import ConfigError
from cslm.storage import Entry

AUTO = "auto"
_TOLD = 10


@dataclass(frozen=True)
class Format:
    """A layout: what people call it, whether a source has it, its rows, and the files that they follow from."""

    name: str
    recognises: Callable[[Source], bool]
    rows: Callable[[Source], Iterator[Row]]
    facts: Callable[[Source], list[Entry]] = lambda source: source.entries


# In the order in which they are tried: those that a look at the top tells before those that need a whole listing.
FORMATS: Mapping[str, Format] = {
    "kaldi": Format("a Kaldi data folder (wav.scp)", kaldi.recognises, kaldi.rows, kaldi.facts),
    "aishell": Format("AISHELL (wav/, transcript/)", aishell.recognises, aishell.rows),
    "mls": Format("Multilingual LibriSpeech (transcripts.txt, audio/)", mls.recognises, mls.rows, mls.facts),
    "common_voice": Format(
        "Common Voice (*.tsv, clips/)", common_voice.recognises, common_voice.rows, common_voice.facts
    ),
    "gigaspeech": Format(
        "GigaSpeech's JSON",
        segmented_json.recognises_gigaspeech,
        segmented_json.gigaspeech,
        segmented_json.facts,
    ),
    "wenetspeech": Format(
        "WenetSpeech's JSON",
        segmented_json.recognises_wenetspeech,
        segmented_json.wenetspeech,
        segmented_json.facts,
    ),
    "librispeech": Format("LibriSpeech (*.trans.txt beside audio)", librispeech.recognises, librispeech.rows),
    "webdataset": Format("WebDataset (*.tar)", webdataset.recognises, webdataset.rows, webdataset.facts),
    "lhotse": Format("lhotse cuts (*.jsonl, *.jsonl.gz)", lhotse.recognises, lhotse.rows, lhotse.facts),
    "huggingface": Format(
        "Parquet or Arrow with audio in a column", huggingface.recognises, huggingface.rows, huggingface.facts
    ),
    "manifest": Format(
        "a manifest (*.jsonl, *.csv, *.tsv, *.parquet)", manifests.recognises, manifests.rows, manifests.parts
    ),
    "audio_folder": Format("a folder of audio", audio_folder.recognises, audio_folder.rows),
}


class CorpusSection(Section):
    """What to tokenize."""

    manifest: str = setting(REQUIRED, "the corpus: a file or a folder, as a path, s3:// or gs://")
    format: str = setting(AUTO, f"its layout; auto: recognised; else one of: {', '.join(FORMATS)}")
    language: str | None = setting(None, "language of rows that name none (BCP-47)")
    split: str = setting("train", "split of rows that name none: train, dev or test", pattern="^(train|dev|test)$")
    columns: dict[str, str] = setting({}, f"columns that are called otherwise: any of {', '.join(COLUMNS)} to its name")
    root: str | None = setting(
        None, "folder that relative paths of audio start from and may not leave; the corpus' own"
    )
    rows_per_shard: int = setting(512, "utterances in a shard, the unit of work and of resuming", ge=1)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value != AUTO and value not in FORMATS:
            raise ValueError(f"must be {AUTO} or one of {', '.join(FORMATS)}, found {value}")
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(value) - set(COLUMNS)):
            raise ValueError(f"must give names to any of {', '.join(COLUMNS)}, found {', '.join(unknown)}")
        return value


class Corpus:
    """A corpus opened for reading. Raises ConfigError where there is nothing, or nothing that is known."""

    def __init__(self, section: CorpusSection) -> None:
        self.source = Source(
            storage.absolute(section.manifest),
            section.language,
            section.columns,
            storage.absolute(section.root) if section.root else None,
        )
        # Tells at once when there is nothing.
        _ = self.source.is_folder
        self.format = section.format if section.format != AUTO else _recognised(self.source)
        if section.format == AUTO:
            self.source.notices.append(f"read as {FORMATS[self.format].name}; corpus.format {self.format} says so")

    @property
    def notices(self) -> list[str]:
        """What the user should know about the reading; filled while reading."""
        return self.source.notices

    def digest(self) -> str:
        """16 hex digits over the names, sizes and times of change of the files that tell the rows."""
        return storage.digest(self.source.uri, FORMATS[self.format].facts(self.source))

    def num_bytes(self) -> int:
        """Size of the files that tell the rows: what grows when a corpus does."""
        return sum(one.size for one in FORMATS[self.format].facts(self.source))

    def rows(self) -> Iterator[Row]:
        """Rows one after the other; a row that cannot be taken tells why (see `source.fault`).

        Raises ConfigError when there is no row, or none of the files can be read.
        """
        unreadable: list[Row] = []
        found = FORMATS[self.format].rows(self.source)
        for row in found:
            if row.get(CONTAINER):
                unreadable.append(row)
                continue
            yield from unreadable
            yield row
            yield from found
            return
        if unreadable:
            raise ConfigError([f"corpus.manifest: {row[FAULT]}" for row in unreadable[:_TOLD]])
        raise ConfigError(f"corpus.manifest: must hold rows, found none in {self.source.uri}")


def _recognised(source: Source) -> str:
    for name, known in FORMATS.items():
        if known.recognises(source):
            return name
    raise ConfigError(
        f"corpus.manifest: must be a corpus in a layout that is known, found none at {source.uri}; known are, with "
        "their names for corpus.format: " + "; ".join(f"{known.name}: {name}" for name, known in FORMATS.items())
    )

"""What a user can say about a text corpus: where it lies, its languages and splits, and which rows are taken."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from cslm.config import REQUIRED, Section, group, setting

TAG_PATTERN = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"

FormatName = Literal["auto", "tsv", "csv", "jsonl", "parquet", "moses", "tmx", "alpaca", "sharegpt", "messages"]


class ColumnsSection(Section):
    """Which columns of a table of pairs hold what; numbers from 1 are places in TSV and CSV files without a header."""

    source: str | None = setting(None, "source text; by default `source`, or the column named like the source language")
    target: str | None = setting(None, "target text; by default `target`, or the column named like the target language")
    id: str = setting("id", "id of the row")
    split: str = setting("split", "split of the row: train, dev or test")
    source_language: str = setting("source_language", "language of the source text (BCP-47)")
    target_language: str = setting("target_language", "language of the target text (BCP-47)")
    source_audio: str = setting("source_audio", "id of the utterance in the units table that speaks the source text")
    target_audio: str = setting("target_audio", "id of the utterance in the units table that speaks the target text")

    @field_validator("*", mode="before")
    @classmethod
    def _places_are_names(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class SourceSection(Section):
    """What to read."""

    path: str = setting(
        REQUIRED, "file (.gz too), folder of files of one kind, or for line pairs what corpus.en and corpus.zh share"
    )
    target_path: str | None = setting(None, "second file of line pairs, when it is not named like the first")
    format: FormatName = setting("auto", "how to read it; auto goes by the names of files and of the first row's keys")
    name: str | None = setting(None, "what ids made here begin with, as in name-12; the file's name by default")
    columns: ColumnsSection = group(ColumnsSection, "columns of a table of pairs")


class LanguagesSection(Section):
    """Which languages the texts are in; a row that names its own goes before."""

    source: str | None = setting(None, "source text of pairs, users' turns of dialogues (BCP-47)", pattern=TAG_PATTERN)
    target: str | None = setting(
        None, "target text of pairs; assistants' turns, by default as the users' (BCP-47)", pattern=TAG_PATTERN
    )
    both_directions: bool = setting(False, "write each pair a second time with source and target exchanged")


class SplitsSection(Section):
    """Which split a row goes to that names none: by a hash of what it asks, so that equal questions stay together."""

    dev_fraction: float = setting(0.0, "share of the rows for dev", ge=0, le=1)
    test_fraction: float = setting(0.0, "share of the rows for test", ge=0, le=1)
    seed: int = setting(0, "another number chooses other rows")

    @model_validator(mode="after")
    def _together(self) -> "SplitsSection":
        if self.dev_fraction + self.test_fraction > 1:
            raise ValueError(
                f"dev_fraction and test_fraction must be at most 1 together, found "
                f"{self.dev_fraction + self.test_fraction:g}"
            )
        return self


class FiltersSection(Section):
    """Which rows are taken; each of the others goes to rejects with its reason."""

    min_chars: int = setting(1, "shortest text or turn", unit="characters", ge=1)
    max_chars: int = setting(4000, "longest text or turn", unit="characters", ge=1)
    max_length_ratio: float = setting(9.0, "the longer text of a pair over the shorter one, in characters", ge=1)
    min_letter_share: float = setting(0.3, "letters among what is no space, in a text or a whole dialogue", ge=0, le=1)
    drop_identical: bool = setting(True, "reject pairs whose source and target are the same text")
    drop_duplicates: bool = setting(True, "reject pairs and dialogues that came before")
    keep_layout: bool = setting(False, "keep line breaks, tabs and runs of spaces, as lists and programs need them")

"""Rows of tables -> pairs: by columns, or by Hugging Face's object `translation: {en: ..., zh: ...}`."""

from collections.abc import Iterator, Mapping
from typing import Any

from cslm.data.texts import tags
from cslm.data.texts.records import Fault, Pair, Record, Row, unreadable
from cslm.data.texts.settings import ColumnsSection, LanguagesSection
from cslm.errors import ConfigError

TRANSLATION = "translation"


def read(
    rows: Iterator[Row | Fault], columns: ColumnsSection, languages: LanguagesSection, where: str
) -> Iterator[Record]:
    """Pairs in the order of the rows. Raises ConfigError when the first row has none of the columns."""
    layout: _Layout | None = None
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        layout = layout or _Layout(row, columns, languages, where)
        yield layout.pair(row)


class _Layout:
    """Where the two texts of a row lie, as its first row shows."""

    def __init__(
        self, first: Mapping[str, Any], columns: ColumnsSection, languages: LanguagesSection, where: str
    ) -> None:
        self._columns, self._languages = columns, languages
        self._nested = columns.source is None and columns.target is None and isinstance(first.get(TRANSLATION), Mapping)
        self._keys: dict[tuple[str, ...], tuple[str | None, str | None]] = {}
        self._source, self._target = "", ""
        faults = [
            f"languages.{side}: must be given, as {where} has no column {column}"
            for side, column in (("source", columns.source_language), ("target", columns.target_language))
            if getattr(languages, side) is None and (self._nested or column not in first)
        ]
        if not self._nested:
            self._source = self._column("source", first, where, faults)
            self._target = self._column("target", first, where, faults)
        if faults:
            raise ConfigError(faults)

    def _column(self, side: str, first: Mapping[str, Any], where: str, faults: list[str]) -> str:
        given: str | None = getattr(self._columns, side)
        language: str | None = getattr(self._languages, side)
        found = given or (side if side in first else tags.best_match(language, first) if language else None)
        if found in first:
            return str(found)
        wanted = given or f"{side}" + (f" or {language}" if language else "")
        faults.append(
            f"source.columns.{side}: must name a column of {where}, looked for {wanted}, found {list(first)[:20]}; a "
            "file without a header line needs numbers: source.columns.source 1, source.columns.target 2"
        )
        return ""

    def pair(self, row: Mapping[str, Any]) -> Record:
        columns = self._columns
        name = row.get(columns.id)
        if not self._nested:
            return Pair(
                row.get(self._source),
                row.get(self._target),
                name,
                row.get(columns.source_language),
                row.get(columns.target_language),
                row.get(columns.split),
                row.get(columns.source_audio),
                row.get(columns.target_audio),
            )
        texts = row.get(TRANSLATION)
        if not isinstance(texts, Mapping):
            return unreadable(f"{TRANSLATION} must be an object of texts by language, found {texts!r:.40}", name)
        names = tuple(texts)
        if names not in self._keys:
            self._keys[names] = (
                tags.best_match(str(self._languages.source), names),
                tags.best_match(str(self._languages.target), names),
            )
        source, target = self._keys[names]
        for side, key in (("source", source), ("target", target)):
            if key is None:
                wanted = getattr(self._languages, side)
                return Fault("no_language", f"{TRANSLATION} must have a text in {wanted}, found {list(names)}", name)
        return Pair(
            texts[source],
            texts[target],
            name,
            split=row.get(columns.split),
            source_audio=row.get(columns.source_audio),
            target_audio=row.get(columns.target_audio),
        )

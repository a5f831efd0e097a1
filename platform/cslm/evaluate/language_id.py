"""Which language a text is in, by lingua: its models lie in its wheel, and it is made for short texts.

It chooses between a few candidates, the languages that an evaluation is about: between all that it knows, a word of one
syllable would be in any of them.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingua import Language, LanguageDetector

# Tags that lingua knows by another name.
_ALIASES = {"cmn": "zh", "yue": "zh", "wuu": "zh", "fil": "tl", "no": "nb"}
# lingua needs two languages to choose between.
_COMMON = ("en", "zh")


class Identifier:
    """Tells between the languages of `candidates` (BCP-47 tags; of each its primary subtag counts)."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self._candidates = sorted({primary(tag) for tag in candidates})

    @property
    def languages(self) -> list[str]:
        """The languages that can be told from each other."""
        return sorted(self._known)

    @property
    def name(self) -> str:
        """The library, its version and the candidates, for reports."""
        import importlib.metadata

        version = importlib.metadata.version("lingua-language-detector")
        return f"lingua {version} between {', '.join(self.languages)}"

    def identify(self, text: str) -> str | None:
        """The primary subtag of the likeliest language; None for a text without letters."""
        language = self._detector.detect_language_of(text)
        return None if language is None else self._tags[language]

    def is_off_target(self, text: str, language: str) -> bool | None:
        """Whether a text is in another language than asked for; None where that cannot be told."""
        wanted = primary(language)
        if wanted not in self._known:
            return None
        found = self.identify(text)
        return None if found is None else found != wanted

    @cached_property
    def _known(self) -> "dict[str, Language]":
        from lingua import IsoCode639_1, Language

        found: dict[str, Language] = {}
        for tag in (*self._candidates, *_COMMON):
            code = getattr(IsoCode639_1, tag.upper(), None)
            if code is not None and (tag in self._candidates or len(found) < 2):
                found[tag] = Language.from_iso_code_639_1(code)
        return found

    @cached_property
    def _tags(self) -> "dict[Language, str]":
        return {language: tag for tag, language in self._known.items()}

    @cached_property
    def _detector(self) -> "LanguageDetector":
        from lingua import LanguageDetectorBuilder

        return LanguageDetectorBuilder.from_languages(*self._known.values()).build()


def primary(tag: str) -> str:
    """The primary subtag of a BCP-47 tag, as the identifier names it."""
    subtag = tag.partition("-")[0].lower()
    return _ALIASES.get(subtag, subtag)

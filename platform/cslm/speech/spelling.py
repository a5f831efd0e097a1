"""A text in the symbols of an aligner: which symbols, and which word of the text each belongs to."""

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cslm.speech.aligners import Aligner
from cslm.speech.transcript import normalise
from cslm.speech.words import Span, script, words

SEPARATOR = -1


@dataclass(frozen=True)
class Spelling:
    """Symbols (S,) of a text with their words: `owners` (S,) counts the spans, SEPARATOR for what stands between words.

    `syllabic` (S,) is true for symbols that stand for a syllable each. `num_letters` are the letters and digits of the
    text, `num_known` those of them that have a symbol.
    """

    spans: list[Span]
    symbols: list[int]
    owners: NDArray[np.int64]
    syllabic: NDArray[np.bool_]
    num_letters: int
    num_known: int


def spell(text: str, language: str, aligner: Aligner) -> Spelling:
    """Spell the words of a text; characters that the aligner does not know are left out."""
    spans = words(text, language)
    separator = aligner.separator(language)
    symbols: list[int] = []
    owners: list[int] = []
    syllabic: list[bool] = []
    num_letters = num_known = 0
    for number, (start, end) in enumerate(spans):
        spelled = aligner.spell(text[start:end], language)
        letters = [symbol for character, symbol in spelled if unicodedata.category(character)[0] in "LN"]
        num_letters += len(letters)
        num_known += sum(symbol is not None for symbol in letters)
        known = [(character, symbol) for character, symbol in spelled if symbol is not None]
        # As transcripts are written that recognisers learn from: no space where none is, nor between Han characters.
        if known and symbols and separator is not None and " " in normalise(text[spans[number - 1][1] - 1 : start + 1]):
            symbols.append(separator)
            owners.append(SEPARATOR)
            syllabic.append(False)
        symbols += [symbol for _, symbol in known]
        owners += [number] * len(known)
        syllabic += [_is_syllabic(character) for character, _ in known]
    return Spelling(spans, symbols, np.array(owners, np.int64), np.array(syllabic, bool), num_letters, num_known)


def _is_syllabic(character: str) -> bool:
    """Whether one character is one syllable, about as long as any other: Han, kana, Hangul."""
    return script(character) in ("han", "kana") or "가" <= character <= "힣"

"""What the recogniser's outputs stand for: the blank of CTC, and the characters of all languages' scripts together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cslm.speech.transcript import normalise


@dataclass(frozen=True)
class Alphabet:
    """Characters by number, from 1; 0 is the blank. Texts are normalised before they are spelled."""

    characters: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], least: int = 1) -> "Alphabet":
        """The characters that occur at least so often in the texts, sorted."""
        counts = Counter(character for text in texts for character in normalise(text))
        return cls(tuple(sorted(character for character, count in counts.items() if count >= least)))

    @property
    def num_symbols(self) -> int:
        """Characters and the blank."""
        return len(self.characters) + 1

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {character: number for number, character in enumerate(self.characters, 1)}

    def spell(self, text: str) -> list[int]:
        """The numbers of a text's characters after normalisation, without those that are not in the alphabet."""
        return [self._numbers[character] for character in normalise(text) if character in self._numbers]

    def read(self, symbols: Sequence[int]) -> str:
        """The text of symbols, with blanks left out."""
        return normalise("".join(self.characters[symbol - 1] for symbol in symbols if symbol))

"""Text as it is heard: what two ways of writing the same words have in common, and how far two texts are apart."""

import unicodedata
from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class EditCounts:
    """Edits between a reference and a hypothesis, and the length of the reference, in characters and in words."""

    character_errors: int
    characters: int
    word_errors: int
    words: int


def normalise(text: str) -> str:
    """Lower case, compatibility forms folded, punctuation and symbols dropped, single spaces.

    Letters, marks and digits of all scripts stay; Han characters stand without spaces between them.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in folded)
    joined = ""
    for word in kept.split():
        between_han = joined and is_han(joined[-1]) and is_han(word[0])
        joined += word if not joined or between_han else f" {word}"
    return joined


def edit_counts(reference: str, hypothesis: str) -> EditCounts:
    """Count the edits between two texts after `normalise`. Han characters count as words each."""
    wanted, given = normalise(reference), normalise(hypothesis)
    return EditCounts(
        character_errors=_edits(list(wanted.replace(" ", "")), list(given.replace(" ", ""))),
        characters=len(wanted.replace(" ", "")),
        word_errors=_edits(_words(wanted), _words(given)),
        words=len(_words(wanted)),
    )


def _edits(wanted: list[str], given: list[str]) -> int:
    if not wanted or not given:
        return max(len(wanted), len(given))
    counts = jiwer.process_words(" ".join(wanted), " ".join(given))
    return int(counts.substitutions + counts.deletions + counts.insertions)


def _words(normalised: str) -> list[str]:
    spaced = "".join(f" {character} " if is_han(character) else character for character in normalised)
    return spaced.split()


def is_han(character: str) -> bool:
    """Whether a character is a Han character."""
    return "㐀" <= character <= "鿿" or "豈" <= character <= "﫿" or "\U00020000" <= character <= "\U0003134f"

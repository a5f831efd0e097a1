"""Scripts by their ISO 15924 codes, and whether a text is written in one: a cheap test that data is what it says."""

import unicodedata
from collections.abc import Iterable

# What the Unicode names of a script's letters begin with.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL", "CJK"),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",),
    "Mymr": ("MYANMAR",),
    "Sinh": ("SINHALA",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}


def share(texts: Iterable[str], script: str) -> float:
    """The share of the letters of some texts that are of a script, 0 to 1; 0 where there are no letters."""
    names = SCRIPTS[script]
    letters = [character for text in texts for character in text if unicodedata.category(character)[0] == "L"]
    fitting = sum(unicodedata.name(character, "").startswith(names) for character in letters)
    return fitting / len(letters) if letters else 0.0

"""A text -> its words, as pieces of the text: by spaces and punctuation, by a library where a script writes no spaces.

What decides is the script of each stretch, so that mixed text comes apart too. Chinese is cut by jieba, Japanese by
janome, Thai by pythainlp (the extra `words`). Where one of them is missing, and in Khmer, Lao and Burmese, each letter
with its marks stands for a word: cuts between words are among the cuts between letters.
"""

import itertools
import logging
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Literal, cast

from cslm.errors import MissingDependency
from cslm.speech.transcript import is_han

Span = tuple[int, int]
Kind = Literal["spaced", "chinese", "japanese", "thai", "letters"]

# Between two letters these are part of the word: apostrophes, hyphens, the Catalan middle dot, Hebrew's geresh and
# gershayim, and the joiners of Persian and Indic scripts, which are not seen.
_INSIDE = frozenset("'’ʼ`-‐‑·׳״\u00ad\u200c\u200d")
_INSIDE_NUMBERS = frozenset(".,:٫٬")
_HAN_MARKS = (("々", "〇"),)
_KANA = (("\u3041", "ヿ"), ("ㇰ", "ㇿ"), ("ｦ", "ﾟ"))
_THAI = (("\u0e00", "\u0e7f"),)
_LETTERS = (
    ("\u0e80", "\u0eff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\ua9e0", "\ua9ff"),
    ("\uaa60", "\uaa7f"),
)
# Written before the consonant that they are spoken after, in Thai and Lao.
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
# The next consonant is written below the one before, in Khmer and Burmese.
_STACKERS = frozenset("\u17d2\u1039")
_PACKAGES: dict[Kind, str] = {"chinese": "jieba", "japanese": "janome", "thai": "pythainlp"}
_KIND_OF_LANGUAGE: dict[str, Kind] = {
    "zh": "chinese", "yue": "chinese", "wuu": "chinese", "nan": "chinese", "hak": "chinese", "cmn": "chinese",
    "lzh": "chinese", "ja": "japanese", "th": "thai", "km": "letters", "lo": "letters", "my": "letters",
}  # fmt: skip
_NAMES = {"km": "Khmer", "lo": "Lao", "my": "Burmese"}


def words(text: str, language: str) -> list[Span]:
    """The words of a text as spans (start, end) of it, in order and apart; every letter and digit is in one of them.

    `language` is a BCP-47 tag; it tells Japanese from Chinese where a stretch is of Han characters only.
    """
    primary = language.partition("-")[0].lower()
    found: list[Span] = []
    for start, end in _runs(text):
        for kind, first, last in _stretches(text, start, end, primary):
            found += _cut(text, first, last, kind)
    return found


def written(language: str) -> Literal["spaced", "segmented"]:
    """How words of a language stand in its texts: between spaces, or to be found by segmentation."""
    return "spaced" if _KIND_OF_LANGUAGE.get(language.partition("-")[0].lower(), "spaced") == "spaced" else "segmented"


def notice(language: str) -> str | None:
    """What to tell of a language whose words are not known here but stand letter by letter; None for others."""
    primary = language.partition("-")[0].lower()
    kind = _KIND_OF_LANGUAGE.get(primary, "spaced")
    if kind == "letters":
        return f"{_NAMES[primary]} is written without spaces and is not segmented here: each letter counts as a word"
    try:
        _segmenter(kind)
    except MissingDependency as error:
        return f"{error}; until then each letter counts as a word"
    return None


def _runs(text: str) -> Iterator[Span]:
    """Stretches without space or punctuation."""
    start: int | None = None
    for place in range(len(text) + 1):
        if place < len(text) and (_is_letter(text[place]) or (start is not None and _stands_inside(text, place))):
            start = place if start is None else start
        elif start is not None:
            yield start, place
            start = None


def _stands_inside(text: str, place: int) -> bool:
    """Whether the mark at `place` joins what is around it to one word."""
    if place + 1 >= len(text) or not _is_letter(text[place + 1]):
        return False
    if text[place] in _INSIDE:
        before = place - 1
        # Marks are of the script that they stand on.
        while before > 0 and unicodedata.category(text[before])[0] == "M":
            before -= 1
        return script(text[before]) == script(text[place + 1]) == "spaced"
    return text[place] in _INSIDE_NUMBERS and text[place - 1].isdecimal() and text[place + 1].isdecimal()


def _stretches(text: str, start: int, end: int, primary: str) -> Iterator[tuple[Kind, int, int]]:
    """A run in stretches of one script, each with how it is cut."""
    scripts: list[str] = []
    for character in text[start:end]:
        # A mark is of the script that it stands on.
        known = scripts and unicodedata.category(character)[0] in "MP" and script(character) == "spaced"
        scripts.append(scripts[-1] if known else script(character))
    place = start
    for one_script, group in itertools.groupby(scripts, key=lambda one: "east" if one in ("han", "kana") else one):
        members = list(group)
        yield _kind(one_script, members, primary), place, place + len(members)
        place += len(members)


def _kind(of: str, members: Sequence[str], primary: str) -> Kind:
    if of == "east":
        return "japanese" if primary == "ja" or "kana" in members else "chinese"
    return cast(Kind, of)


def _cut(text: str, start: int, end: int, kind: Kind) -> Iterator[Span]:
    pieces = _whole_letters(_pieces(text[start:end], kind))
    for piece in pieces:
        if any(unicodedata.category(character)[0] in "LN" for character in piece):
            yield start, start + len(piece)
        start += len(piece)


def _pieces(run: str, kind: Kind) -> list[str]:
    if kind == "spaced":
        return [run]
    if kind != "letters":
        try:
            found = list(_segmenter(kind)(run))
        except MissingDependency:
            found = []
        # A library that changes what it cuts cannot say where its words lie.
        if "".join(found) == run:
            return found
    return _letters(run)


def _letters(run: str) -> list[str]:
    """Letters with the marks that stand on them."""
    found: list[str] = []
    for character in run:
        is_mark = unicodedata.category(character)[0] in "MP" or unicodedata.category(character) == "Cf"
        if found and (is_mark or found[-1][-1] in _STACKERS or found[-1][-1] in _LEADING_VOWELS):
            found[-1] += character
        else:
            found.append(character)
    return found


def _whole_letters(pieces: Iterable[str]) -> list[str]:
    """The same pieces, what holds no letter or digit being part of the one before."""
    found: list[str] = []
    for piece in pieces:
        if found and not any(unicodedata.category(character)[0] in "LN" for character in piece):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


@cache
def script(character: str) -> str:
    """`han`, `kana`, `thai`, `letters` for other scripts without spaces, `spaced` for all else."""
    if is_han(character):
        return "han"
    for name, ranges in (("han", _HAN_MARKS), ("kana", _KANA), ("thai", _THAI), ("letters", _LETTERS)):
        if any(first <= character <= last for first, last in ranges):
            return name
    return "spaced"


@cache
def _segmenter(kind: Kind) -> Callable[[str], Iterable[str]]:
    """What cuts a stretch. Raises MissingDependency."""
    try:
        if kind == "chinese":
            return _jieba()
        if kind == "japanese":
            from janome.tokenizer import Tokenizer

            janome = Tokenizer()
            return lambda run: janome.tokenize(run, wakati=True)
        if kind == "thai":
            from pythainlp.tokenize import word_tokenize

            return lambda run: word_tokenize(run, engine="newmm")
    except ImportError as error:
        raise MissingDependency(_PACKAGES[kind], "words", f"finding {kind.capitalize()} words") from error
    return lambda run: [run]


def _jieba() -> Callable[[str], Iterable[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, which it imports
        import jieba
    jieba.setLogLevel(logging.ERROR)
    tokenizer = jieba.Tokenizer()
    # What its own `initialize` does, without the cache that it would read from and leave in the common folder for
    # temporary files, where anybody may have put one.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return lambda run: tokenizer.cut(run)

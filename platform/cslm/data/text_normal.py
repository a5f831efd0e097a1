"""One form for every text, and the names of what was changed to reach it: nothing is mended without being told.

Two texts that a reader cannot tell apart must give a model the same tokens, so composed characters, kinds of spaces
and characters that nobody sees are brought to one form. What carries meaning stays: case, punctuation, digits, and
the joiners that some scripts are spelled with.
"""

import re
import unicodedata

CHANGES = (
    "byte_order_mark",
    "unpaired_surrogates",
    "control_characters",
    "invisible_characters",
    "line_breaks",
    "spaces",
    "nfc",
)
"""The names that `normalise` gives to what it changed."""

# Where Python's str.splitlines breaks a line, and tabs, which stand between columns.
_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
_REMOVED = {
    "byte_order_mark": re.compile("\ufeff"),
    # Half a pair, as broken JSON escapes leave it; no encoding can write it.
    "unpaired_surrogates": re.compile("[\ud800-\udfff]"),
    "control_characters": re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff]"),
    # Soft hyphen, zero-width spaces, marks and overrides of direction, invisible operators, tags.
    "invisible_characters": re.compile(
        "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\U000e0000-\U000e007f]"
    ),
}
_JOINERS = "\u200c\u200d"
# Scripts whose letters take other forms beside a joiner: Arabic to Mongolian with all Indic ones, and their extensions.
_JOINING = "\u0600-\u10ff\u1200-\u1cff\ua840-\uabff\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
_EMOJI = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_NEEDLESS_JOINER = re.compile(
    f"((?<=[{_JOINING}])\u200d"  # at the end of a word too: Malayalam's older chillus, Persian abbreviations
    f"|(?<=[{_JOINING}])\u200c(?=[{_JOINING}]|\\w)|(?<=\\w)\u200c(?=[{_JOINING}])"
    f"|(?<=[{_EMOJI}])\u200d(?=[{_EMOJI}]))"
    f"|[{_JOINERS}]"
)
_MANY_JOINERS = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
_BREAK = re.compile(f"[{_BREAKS}]")
_SPACES = re.compile(r"\s+")
_LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1f\x85\u2028\u2029]")
_INSIDE_LINE = re.compile(r"[^\S\n\t ]")
_TRAILING = re.compile(r"[ \t]+(?=\n)")
_ROUNDS = 8


def normalise(text: str, *, keep_layout: bool = False) -> tuple[str, list[str]]:
    r"""The text in NFC on one line, and the names (of `CHANGES`, in that order) of what had to be changed.

    Line breaks, tabs and spaces of any kind become one space each run, and none is left at the ends. Control
    characters, byte-order marks and invisible characters go; zero-width joiners and non-joiners stay where a script
    or an emoji is spelled with them. With `keep_layout`, line breaks (as `\n`), tabs and runs of spaces stay inside
    the text: what a list or a program needs. The result is a fixed point: normalising it again changes nothing.
    """
    # True for no control, format or surrogate character and no space but the plain one, and decided in C.
    if text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " ":
        if unicodedata.is_normalized("NFC", text):
            return text, []
        return unicodedata.normalize("NFC", text), ["nfc"]
    changes: set[str] = set()
    # What one step takes away may bring together what an earlier one would have changed: a letter and its accent.
    for _ in range(_ROUNDS):
        before = text
        text = _pass(text, keep_layout, changes)
        if text == before:
            break
    return text, [name for name in CHANGES if name in changes]


def _pass(text: str, keep_layout: bool, changes: set[str]) -> str:
    def note(name: str, changed: str) -> str:
        if changed != text:
            changes.add(name)
        return changed

    text = note("nfc", unicodedata.normalize("NFC", text))
    for name, pattern in _REMOVED.items():
        text = note(name, pattern.sub("", text))
    if _JOINERS[0] in text or _JOINERS[1] in text:
        joined = _NEEDLESS_JOINER.sub(lambda found: found[1] or "", _MANY_JOINERS.sub(r"\1", text))
        text = note("invisible_characters", joined)
    if keep_layout:
        text = note("line_breaks", _LINE_END.sub("\n", text))
        return note("spaces", _TRAILING.sub("", _INSIDE_LINE.sub(" ", text)).strip("\n").rstrip())
    text = note("line_breaks", _BREAK.sub(" ", text))
    return note("spaces", _SPACES.sub(" ", text).strip())

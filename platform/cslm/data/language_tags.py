"""Language tags: their shape (BCP-47), their usual case, and whether the language they begin with can be one.

Two-letter subtags are few, never change, and are all listed: what people write by mistake is a country (`cn`, `jp`)
or a name (`english`). Three-letter subtags are thousands and change; they are taken by their shape.
"""

import re
from functools import cache

_SHAPE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
# ISO 639-1 and its former codes, as in the IANA language subtag registry.
_TWO_LETTERS = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik in io is it iu iw
    ja ji jv jw ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mo mr ms mt
    my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm
    sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
    """.split()
)


@cache
def canonical(tag: str) -> str | None:
    """A tag as it is usually written (`zh-CN`, `sr-Latn`), so that one language has one name; None if it is no tag."""
    if not _SHAPE.fullmatch(tag):
        return None
    first, *rest = tag.lower().split("-")
    return "-".join([first, *(_cased(part) for part in rest)])


def is_language(tag: str) -> bool:
    """Whether a tag begins with a language: one of two letters that is registered, or any of three."""
    first = tag.partition("-")[0].lower()
    return first in _TWO_LETTERS if len(first) == 2 else len(first) == 3


def _cased(part: str) -> str:
    if len(part) == 2 and part.isalpha():
        return part.upper()
    return part.title() if len(part) == 4 and part.isalpha() else part

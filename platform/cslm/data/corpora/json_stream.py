"""One object after the other out of a long array in a JSON file that is too large to be held at once."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from cslm.data.corpora.source import fault
from cslm.data.corpora.text import open_text

_BLOCK = 1 << 20
_MAX_PREAMBLE = 64 << 20
_SPACE_OR_COMMA = re.compile(r"[\s,]*")


def objects(uri: str, array: str) -> Iterator[tuple[str, Any]]:
    """Elements of the first array of the name `array`, each as (what stands before the array, element).

    A file that ends too soon or is no JSON ends with an element that is a fault of the container.
    """
    opening = re.compile(rf'"{array}"\s*:\s*\[')
    raw_decode = json.JSONDecoder().raw_decode
    buffer, place, ended = "", 0, False
    preamble: str | None = None
    try:
        with open_text(uri) as stream:
            decode = codecs.getincrementaldecoder("utf-8-sig")().decode
            while True:
                if preamble is None:
                    if match := opening.search(buffer):
                        preamble, place = buffer[: match.start()], match.end()
                        continue
                    problem = "none"
                    ended = ended or len(buffer) > _MAX_PREAMBLE
                else:
                    place += len(_SPACE_OR_COMMA.match(buffer, place)[0])  # type: ignore[index]
                    if buffer[place : place + 1] == "]":
                        return
                    try:
                        element, end = raw_decode(buffer, place)
                        if end < len(buffer) or ended:
                            place = end
                            yield preamble, element
                            continue
                    except (ValueError, RecursionError) as error:
                        problem = str(error)
                if ended:
                    break
                # As much again as there is: an element of many blocks is not tried at each of them.
                block = stream.read(max(_BLOCK, len(buffer) - place))
                ended = not block
                buffer, place = buffer[place:] + decode(block, final=ended), 0
    except (UnicodeDecodeError, EOFError) as error:
        problem = str(error)
    message = f'{uri} must be whole UTF-8 JSON with an array "{array}", found {problem}; copy the file again'
    yield "", fault("unreadable_container", message, audio=uri, container=True)

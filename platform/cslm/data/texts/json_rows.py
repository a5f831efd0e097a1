"""Objects of JSON files, one a line or in one array, read as a stream either way."""

import codecs
import io
import json
from collections.abc import Iterator, Mapping

from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, Row, unreadable
from cslm.errors import ContractError

_PIECE_CHARS = 1 << 20
# An array is damaged, not long, when one of its objects has no end within so much text.
_LONGEST_OBJECT_CHARS = 64 << 20


def rows(file: TextFile) -> Iterator[Row | Fault]:
    """Objects one after the other; a line or an element that is no object is a fault.

    Raises ContractError when an array is damaged: where its next element begins cannot be known.
    """
    with file.open() as stream:
        head = stream.peek(4096)[:4096].removeprefix(codecs.BOM_UTF8).lstrip()
    yield from _array(file) if head.startswith(b"[") else _lines(file)


def _lines(file: TextFile) -> Iterator[Row | Fault]:
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            yield unreadable(f"line {number} must be JSON, found {error}")
            continue
        yield _checked(value, f"line {number}")


def _array(file: TextFile) -> Iterator[Row | Fault]:
    decoder = json.JSONDecoder()
    with file.open() as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            buffer = _more(text, "", file)
            place = buffer.index("[") + 1
            number = 0
            while True:
                # Between elements: spaces and commas.
                while place < len(buffer) and buffer[place] in " \t\r\n,":
                    place += 1
                if place == len(buffer):
                    buffer, place = _more(text, "", file), 0
                    continue
                if buffer[place] == "]":
                    return
                number += 1
                while True:
                    try:
                        value, end = decoder.raw_decode(buffer, place)
                        # A number at the very end of the piece may go on in the next one.
                        if end < len(buffer):
                            break
                        fault = "its end"
                    except (json.JSONDecodeError, RecursionError) as error:
                        fault = str(error)
                    if len(buffer) - place > _LONGEST_OBJECT_CHARS:
                        raise ContractError(f"{file.uri}: element {number} of the array must be JSON, found {fault}")
                    # Doubling keeps the work linear however long the element is.
                    buffer, place = _more(text, buffer[place:], file, f"; element {number}: {fault}"), 0
                place = end
                yield _checked(value, f"element {number}")
        except UnicodeDecodeError as error:
            raise ContractError(f"{file.uri} must be UTF-8, found {error}") from error
        finally:
            text.detach()


def _more(text: io.TextIOWrapper, kept: str, file: TextFile, fault: str = "") -> str:
    piece = text.read(max(_PIECE_CHARS, len(kept)))
    if not piece:
        raise ContractError(f"{file.uri} must be one whole JSON array, found its end without a closing ]{fault}")
    return kept + piece


def _checked(value: object, place: str) -> Row | Fault:
    if isinstance(value, Mapping):
        return dict(value)
    return unreadable(f"{place} must be a JSON object, found {str(value)[:40]!r}")

"""Translation memories (TMX): each unit that has both languages is a pair; read as a stream, whatever their size.

Expat reads the file piece by piece. Files that declare entities are refused, as those can grow without bound or name
other files; a DOCTYPE that only names the format's own DTD is common and is never fetched.
"""

from collections.abc import Iterator
from xml.parsers import expat

from cslm.data.texts import tags
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Fault, Pair, Record, Records
from cslm.data.texts.settings import LanguagesSection
from cslm.errors import ConfigError, ContractError

_PIECE_BYTES = 1 << 18
# The codes of the program that the text came from; what stands in them is no text.
_NATIVE_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})


def read(file: TextFile, languages: LanguagesSection) -> Records:
    """Pairs of the units in order. Raises ContractError for a file that is not well-formed or declares entities."""
    missing = [
        f"languages.{side}: must be given for TMX, which holds texts by language"
        for side, language in (("source", languages.source), ("target", languages.target))
        if language is None
    ]
    if missing:
        raise ConfigError(missing)
    units = _Units(str(languages.source), str(languages.target), file.uri)
    with file.open() as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield from units.feed(piece)
        yield from units.feed(b"", last=True)


class _Units:
    """Expat's events -> pairs."""

    def __init__(self, source: str, target: str, uri: str) -> None:
        self._source, self._target, self._uri = source, target, uri
        self._ready: list[Record] = []
        self._inside_unit = self._inside_text = False
        self._unit_id: str | None = None
        self._language = ""
        self._texts: dict[str, str] = {}
        self._pieces: list[str] = []
        self._native_depth = 0
        self._unknown_entity: str | None = None
        self._found_root = False
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity_declaration
        parser.SkippedEntityHandler = self._skipped_entity
        self._parser = parser

    def feed(self, piece: bytes, last: bool = False) -> Iterator[Record]:
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            raise ContractError(f"{self._uri} must be well-formed XML, found {error}; fetch it again") from error
        ready, self._ready = self._ready, []
        yield from ready

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._found_root and name != "tmx":
            raise ContractError(f"{self._uri} must be TMX, with a first element tmx, found {name}")
        self._found_root = True
        if name == "tu":
            self._inside_unit, self._unit_id = True, attributes.get("tuid")
            self._texts, self._unknown_entity = {}, None
        elif name == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg" and self._inside_unit:
            self._inside_text, self._pieces = True, []
        elif name in _NATIVE_CODES:
            self._native_depth += 1

    def _end(self, name: str) -> None:
        if name == "seg" and self._inside_text:
            self._inside_text = False
            self._texts.setdefault(self._language, "".join(self._pieces))
        elif name in _NATIVE_CODES:
            self._native_depth -= 1
        elif name == "tu":
            self._inside_unit = False
            self._ready.append(self._record())

    def _characters(self, text: str) -> None:
        if self._inside_text and not self._native_depth:
            self._pieces.append(text)

    def _record(self) -> Record:
        if self._unknown_entity is not None:
            return Fault("unreadable_row", f"the entity &{self._unknown_entity}; must be a character", self._unit_id)
        source, target = tags.best_match(self._source, self._texts), tags.best_match(self._target, self._texts)
        for wanted, found in ((self._source, source), (self._target, target)):
            if found is None:
                message = f"the unit must have a text in {wanted}, found {sorted(self._texts)}"
                return Fault("no_language", message, self._unit_id)
        return Pair(self._texts[str(source)], self._texts[str(target)], self._unit_id)

    def _entity_declaration(self, name: str, *_: object) -> None:
        raise ContractError(
            f"{self._uri} must not declare entities, which can hide a bomb or another file, found &{name};: write the "
            "characters themselves"
        )

    def _skipped_entity(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            self._unknown_entity = name

"""What lies at a card's sources now: enough to tell whether data is new or has grown, by listings alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from cslm import storage
from cslm.config import fingerprint
from cslm.data import manifest
from cslm.data.corpora import Corpus
from cslm.errors import CslmError
from cslm.languages.card import Card, TextSource


@dataclass(frozen=True)
class Drop:
    """A language's data as it lies: a digest of its listings, and its size, which grows as it does."""

    digest: str
    num_bytes: int


def look(card: Card) -> Drop:
    """The data of a card, by a listing a source; no row is read. Raises CslmError naming what is missing."""
    faults: list[str] = []
    digests: list[str] = []
    num_bytes = 0
    for place, source in enumerate(card.sources.speech):
        try:
            digests.append(manifest.source_key(source))
            num_bytes += Corpus(source).num_bytes()
        except CslmError as error:
            faults.append(f"sources.speech.{place}: {error}")
    for name, text in _texts(card):
        if not storage.exists(storage.absolute(text.uri)):
            faults.append(f"sources.{name}: must be there, found nothing at {storage.absolute(text.uri)}")
            continue
        entries = _entries(text)
        digests.append(storage.digest(storage.absolute(text.uri), entries))
        num_bytes += sum(one.size for one in entries)
    if faults:
        raise CslmError("\n".join(f"{card.code}: {fault}" for fault in faults))
    return Drop(fingerprint(digests), num_bytes)


def _texts(card: Card) -> Iterator[tuple[str, TextSource]]:
    for name in ("parallel_text", "dialogues"):
        for place, source in enumerate(getattr(card.sources, name)):
            yield f"{name}.{place}", source


def _entries(source: TextSource) -> list[storage.Entry]:
    uri = storage.absolute(source.uri)
    if storage.is_folder(uri):
        return storage.list_entries(uri)
    found = storage.entry(uri)
    return [found] if found else []

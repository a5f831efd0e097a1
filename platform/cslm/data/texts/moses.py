"""Line pairs: line n of one file says what line n of the other says (Moses, OPUS, WMT)."""

from itertools import zip_longest

from cslm import storage
from cslm.data.texts.files import TextFile
from cslm.data.texts.records import Pair, Record, Records, unreadable
from cslm.errors import ConfigError, ContractError


def partner_of(path: str, target_path: str | None, source: str, target: str) -> tuple[str, str] | None:
    """The two files of line pairs that `path` means, None when it means none.

    `path` is the file in the source language, or what both names share before `.en` and `.zh`. Raises ConfigError
    when a file that was named is not there.
    """
    if target_path is not None:
        for uri, name in ((path, "path"), (target_path, "target_path")):
            if not storage.exists(uri):
                raise ConfigError(f"source.{name}: must be a file of line pairs, found nothing at {uri}")
        return path, target_path
    for end in ("", ".gz"):
        shared = path.removesuffix(end).removesuffix(f".{source}") if path.endswith(f".{source}{end}") else path
        first, second = f"{shared}.{source}{end}", f"{shared}.{target}{end}"
        if storage.exists(first) and storage.exists(second):
            return first, second
    return None


def read(file: TextFile) -> Records:
    """Pairs by line; empty lines are pairs too. Raises ContractError when one file has more lines."""
    if file.partner is None:
        raise ConfigError(f"source.target_path: line pairs need a second file beside {file.uri}, found none")
    counts = [0, 0]
    for number, (source, target) in enumerate(zip_longest(file.lines(), file.lines(file.partner)), 1):
        if source is not None:
            counts[0] += 1
        if target is not None:
            counts[1] += 1
        # Where one file ended, the other is only counted: no line of it can be trusted to have its pair.
        if source is not None and target is not None:
            yield _pair(number, source, target)
    if counts[0] != counts[1]:
        raise ContractError(
            f"line pairs must have as many lines in both files, found {counts[0]:,} in {file.uri} and {counts[1]:,} in "
            f"{file.partner}; a missing line shifts all that follow, so nothing is taken: fetch or align them again"
        )


def _pair(number: int, source: bytes, target: bytes) -> Record:
    try:
        return Pair(source.decode(), target.decode())
    except UnicodeDecodeError as error:
        return unreadable(f"line {number} must be UTF-8 in both files, found {error}")

"""The audio that units were made of: rows of the units table -> their samples, or the reason why there are none."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from cslm.data import fetch, locators
from cslm.errors import AudioError
from cslm.speech.audio import AudioSection, Recording, Waveform

# What was made into units is taken whatever its length: nothing is filtered here a second time.
_LIMITS = AudioSection(min_s=1e-3, max_s=1e6)


def read(rows: Iterable[Mapping[str, Any]], sample_rate_hz: int) -> Iterator[tuple[Any, Waveform | AudioError]]:
    """Each row with its samples (T,) or the AudioError that kept them, in the order of the rows' containers.

    Rows need `source`, `source_sha256`, `start_s` and `end_s`. An OSError of the storage is raised.
    """
    ordered = sorted(rows, key=lambda row: locators.order(row["source"]))
    # Spans of one recording stand together, so that it is fetched and opened once.
    recordings = [(source, list(spans)) for source, spans in itertools.groupby(ordered, key=lambda row: row["source"])]
    with closing(fetch.fetch_all(source for source, _ in recordings)) as fetched:
        for (_, spans), got in zip(recordings, fetched, strict=True):
            opened: Recording | None = None
            for row in spans:
                try:
                    opened = opened or _opened(row, got)
                    span = {"start_s": row["start_s"], "end_s": row["end_s"]}
                    yield row, opened.clip(sample_rate_hz, **span, limits=_LIMITS).samples
                except AudioError as error:
                    yield row, error


def _opened(row: Mapping[str, Any], got: fetch.Result) -> Recording:
    if isinstance(got, AudioError):
        raise got
    if got.sha256 != row["source_sha256"]:
        raise AudioError(
            "source_changed",
            f"the recording must be the one that became units (SHA-256 {row['source_sha256'][:12]}..), found "
            f"another at {row['source']} ({got.sha256[:12]}..); tokenize it again, or bring the old one back",
        )
    return Recording(got.data)

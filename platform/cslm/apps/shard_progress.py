"""Results of a pipeline over shards -> entries of its ledger, with the rate and the time left told meanwhile."""

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cslm.apps.job import Job
from cslm.data.ledger import Entry, Ledger, add_counts

METRICS_EVERY_S = 10.0
_RECORDED_AT_ONCE = 8


class Meter:
    """Audio seconds a second since the first result, on the progress line and in the tracking run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._started_s = self._logged_s = time.monotonic()
        self._audio_s = 0.0
        self._pieces = 0

    def add(self, counts: Entry) -> str:
        """Count one piece; returns the note for the progress line."""
        self._audio_s += counts["audio_s"]
        self._pieces += 1
        now = time.monotonic()
        rate = self._audio_s / max(now - self._started_s, 1e-9)
        if now - self._logged_s >= METRICS_EVERY_S:
            self._logged_s = now
            self._job.run.log_metrics({"throughput/audio_s_per_s": rate}, step=self._pieces)
        return f"{rate:,.0f} audio s/s"

    def close(self) -> float:
        """Record and return the rate over all pieces."""
        rate = self._audio_s / max(time.monotonic() - self._started_s, 1e-9)
        self._job.run.log_metrics({"throughput/audio_s_per_s": rate}, step=self._pieces)
        return rate


def collect(
    results: Iterable[dict[str, Any]],
    job: Job,
    ledger: Ledger,
    *,
    label: str,
    num_rows: int,
    rows_done: int,
    unit: str = "utterances",
) -> list[Entry]:
    """Enter each shard in the ledger when the counts of all its pieces have come; returns the entries.

    `num_rows` are those of all shards, `rows_done` those of shards that were done before.
    """
    meter = Meter(job)
    arrived: dict[str, list[dict[str, Any]]] = {}
    recording: deque[Future[Entry]] = deque()
    entries: list[Entry] = []
    with (
        ThreadPoolExecutor(_RECORDED_AT_ONCE) as writers,
        job.progress(label, num_rows, unit, rows_done) as progress,
    ):
        for result in results:
            shard = result["shard"]
            progress.update(result["counts"]["rows"], meter.add(result["counts"]))
            pieces = arrived.setdefault(shard["name"], [])
            pieces.append(result)
            last = next((piece["piece"] for piece in pieces if piece["last"]), None)
            if last is not None and len(pieces) == last + 1:
                del arrived[shard["name"]]
                counts: Entry = {}
                for piece in pieces:
                    counts = add_counts(counts, piece["counts"])
                recording.append(writers.submit(ledger.record, shard, counts))
            # An entry that could not be written ends the job now, not when all the work is done.
            while recording and recording[0].done():
                entries.append(recording.popleft().result())
    meter.close()
    return entries + [future.result() for future in recording]

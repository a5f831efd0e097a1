"""A row of the manifest -> the utterances it gives, each decoded or with the reason why it is not taken.

A row gives one utterance, but for a long recording without a transcript: that is split into several, and counts as
accepted when one of them is taken. Which row settles its source is marked here, so that whoever sees only some of the
utterances can count: accepted and rejected sources together are the rows of the manifest.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cslm.data.duplicates import audio_digest
from cslm.data.filters import FiltersSection, clip_fault, text_fault
from cslm.data.ids import part_id
from cslm.data.text_normal import normalise
from cslm.errors import AudioError
from cslm.speech import segment
from cslm.speech.audio import AudioSection, Recording, Waveform
from cslm.speech.segment import SegmentSection

Row = dict[str, Any]
# Opens the recording of a row; with it comes the digest of its bytes. Raises AudioError.
Opener = Callable[[], tuple[Recording, str]]


@dataclass(frozen=True)
class Intake:
    """Every setting that decides what of a corpus is taken."""

    audio: AudioSection = field(default_factory=AudioSection)
    segment: SegmentSection = field(default_factory=SegmentSection)
    filters: FiltersSection = field(default_factory=FiltersSection)

    def key(self) -> Any:
        """What the result for a shard depends on, as a JSON value; duplicates are looked for among finished shards."""
        filters = self.filters.model_dump(mode="json", exclude={"duplicate_audio"})
        return [self.audio.model_dump(mode="json"), self.segment.model_dump(mode="json"), filters]


def utterances(
    row: Row, open_recording: Opener, intake: Intake, sample_rate_hz: int, first_s: float | None = None
) -> Iterator[tuple[Row, Waveform]]:
    """The utterances of a row of the manifest, with the fields of `recordings.PIECE_SCHEMA`, and their samples (T,).

    The samples are empty where `error` says why the utterance is not taken. With `first_s`, a recording that has to
    be split is looked at only so far.
    """
    text, changes = normalise(row["text"] or "")
    row = {**row, "text": text or None, "text_changes": changes}
    if fault := text_fault(row["text"], intake.filters):
        yield _rejected(row, "filter", fault.error, fault.message, 0.0, "rejected")
        return
    try:
        recording, row["sha256"] = open_recording()
        spans = _spans(row, recording, intake, first_s)
    except AudioError as error:
        yield _rejected(row, "audio", error.reason, str(error), error.audio_s, "rejected")
        return
    if spans is None:
        found, samples = _utterance(row, recording, intake, sample_rate_hz)
        yield {**found, "settles": "rejected" if found.get("error") else "accepted"}, samples
    elif not spans:
        how = "silero-vad" if intake.segment.by == "vad" else "the energy"
        message = f"a recording must hold speech, found none by {how} (segment.by); drop the row or give spans"
        yield _rejected(row, "audio", "no_speech", message, recording.length_s, "rejected")
    else:
        yield from _split(row, recording, spans, intake, sample_rate_hz)


def _spans(row: Row, recording: Recording, intake: Intake, first_s: float | None) -> list[tuple[float, float]] | None:
    """Where to split a recording, None when it is taken as the row says: its text or its span belong to the whole."""
    section = intake.segment
    if row["text"] or row["start_s"] is not None or row["end_s"] is not None:
        return None
    if section.by == "none" or recording.length_s <= section.max_s:
        return None
    return segment.utterances(recording, section, intake.audio.channels, first_s)


def _split(
    row: Row, recording: Recording, spans: list[tuple[float, float]], intake: Intake, sample_rate_hz: int
) -> Iterator[tuple[Row, Waveform]]:
    reasons: Counter[str] = Counter()
    taken = False
    trimmed_s = recording.length_s - sum(end_s - start_s for start_s, end_s in spans)
    for number, (start_s, end_s) in enumerate(spans):
        place = {"start_s": start_s, "end_s": min(end_s, recording.length_s)}
        span = {**row, "id": part_id(row["id"], number), "part_of": row["id"], **place}
        if number == 0:
            span["trimmed_s"] = max(0.0, trimmed_s)
        else:
            span["text_changes"] = []
        found, samples = _utterance(span, recording, intake, sample_rate_hz)
        if "error" in found:
            reasons[found["error"]] += 1
        elif not taken:
            taken, found["settles"] = True, "accepted"
        yield found, samples
    if not taken:
        counted = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        message = f"one utterance of a recording must be taken, found {len(spans)} and none is: {counted}; see each"
        yield _rejected({**row, "text_changes": []}, "audio", "no_span_taken", message, 0.0, "rejected")


def _utterance(row: Row, recording: Recording, intake: Intake, sample_rate_hz: int) -> tuple[Row, Waveform]:
    try:
        clip = recording.clip(sample_rate_hz, start_s=row["start_s"], end_s=row["end_s"], limits=intake.audio)
    except AudioError as error:
        return _rejected(row, "audio", error.reason, str(error), error.audio_s)
    if fault := clip_fault(clip, row["text"], sample_rate_hz, intake.filters):
        return _rejected(row, "filter", fault.error, fault.message, len(clip.samples) / sample_rate_hz)
    return {**row, "audio_digest": audio_digest(clip.samples)}, clip.samples


def _rejected(
    row: Row, stage: str, error: str, message: str, rejected_s: float, settles: str | None = None
) -> tuple[Row, Waveform]:
    why = {"stage": stage, "error": error, "message": message, "rejected_s": rejected_s, "settles": settles}
    return {**row, **why}, np.empty(0, np.float32)

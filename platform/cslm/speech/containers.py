"""m4a, aac, mp4, webm and other containers, decoded by FFmpeg through PyAV; the only module that imports `av`.

Asked only for what libsndfile cannot read: opening takes ten times as long, and the package is an extra. Everything
is in memory here, so that whatever FFmpeg complains about is the fault of the data.
"""

import importlib
import importlib.util
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cslm.errors import AudioError

# Containers that know where each packet lies in time, to the sample or the millisecond.
_SEEKABLE = ("mov", "matroska", "webm")
# A decoder that starts in the middle needs some packets until it is right: 80 ms for opus (RFC 7845, section 4.6).
_PREROLL_S = 0.2


def installed() -> bool:
    """Whether the extra `m4a` is there."""
    return importlib.util.find_spec("av") is not None


class ContainerReader:
    """Frames (T, C) float32 of the first audio stream of a container."""

    subtype = ""

    def __init__(self, data: bytes) -> None:
        """Raises AudioError: corrupt, no_samples, unsupported_codec."""
        self._av = importlib.import_module("av")
        self._data = data
        try:
            with self._opened() as container:
                if not container.streams.audio:
                    needed, remedy = "a stream of audio", "extract the sound or drop the row"
                    raise AudioError("no_samples", f"a container must hold {needed}, found none; {remedy}")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    needed, remedy = "a codec that FFmpeg decodes", "convert the file"
                    raise AudioError("unsupported_codec", f"audio must be of {needed}, found another; {remedy}")
                self.rate_hz, self.num_channels = stream.rate, stream.channels
                self._seekable = any(name in container.format.name.split(",") for name in _SEEKABLE)
                self.num_frames = self._length(container, stream)
        except (self._av.FFmpegError, ValueError) as error:
            raise _unreadable(error) from error

    def blocks(self, first: int, count: int, block_frames: int) -> Iterator[NDArray[np.float32]]:
        """Frames `first` to `first + count` in blocks of about `block_frames`; fewer where the recording ends."""
        held: list[NDArray[np.float32]] = []
        held_frames = 0
        for frames_TC in self._frames(first, count):
            held.append(frames_TC)
            held_frames += len(frames_TC)
            if held_frames >= block_frames:
                yield np.concatenate(held)
                held, held_frames = [], 0
        if held:
            yield np.concatenate(held)

    def _frames(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        try:
            with self._opened() as container:
                stream = container.streams.audio[0]
                resampler = self._av.AudioResampler(format="flt", layout=stream.layout, rate=self.rate_hz)
                start_s = first / self.rate_hz - _PREROLL_S
                sought = self._seekable and start_s > 0
                if sought:
                    container.seek(int(start_s / stream.time_base), stream=stream)
                place = None if sought else 0
                for decoded in container.decode(stream):
                    for frame in resampler.resample(decoded):
                        if place is None:
                            place = round(frame.pts * frame.time_base * self.rate_hz)
                        frames_TC = frame.to_ndarray().reshape(-1, self.num_channels)
                        begin, end = max(first - place, 0), max(first + count - place, 0)
                        place += len(frames_TC)
                        if len(wanted := frames_TC[begin:end]):
                            yield wanted
                        if place >= first + count:
                            return
        except (self._av.FFmpegError, ValueError) as error:  # ValueError: the layout changes within the stream
            raise _unreadable(error) from error

    def _opened(self) -> Any:
        # Titles and names of artists come in any encoding, and are not asked for.
        return self._av.open(io.BytesIO(self._data), metadata_errors="replace")

    def _length(self, container: Any, stream: Any) -> int:
        """Frames of the stream: as the container says where it knows, else by its packets' times."""
        if stream.duration and self._seekable:
            frames: int = round(stream.duration * stream.time_base * self.rate_hz)
            return frames
        end = 0
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
        frames = round(end * stream.time_base * self.rate_hz)
        return frames


def _unreadable(error: Exception) -> AudioError:
    fault = getattr(error, "strerror", None) or error
    message = f"a container must hold audio that FFmpeg decodes, found: {fault}; copy the file again or convert it"
    return AudioError("corrupt", message)

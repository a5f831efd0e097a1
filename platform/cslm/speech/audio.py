"""Bytes of a recording -> mono float32 samples at the rate a tokenizer wants, or an AudioError that says why not.

Works on bytes, not on paths: where they came from (a file, an object store, a column of a table) is no matter here.
soundfile opens a file in a fraction of a millisecond, which decides the speed on short clips; soxr's HQ resampler
keeps aliases below -130 dB. Neither needs FFmpeg, which is asked only for what libsndfile cannot read. Samples pass
in blocks, so that what a decoder holds is bounded by the result and not by channels, rates or lies of a header.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.errors import AudioError
from cslm.speech import containers, signatures

Waveform = NDArray[np.float32]

# Ends of spans come from annotation tools that round; a span may pass the end of its recording by this much. By as much
# a recording may be shorter than its header says: encoders pad.
_SLACK_S = 0.1
_RATES_HZ = (4_000, 768_000)
_UNKNOWN_FRAMES = 1 << 60
_MAX_CHANNELS = 1024  # of libsndfile
_BLOCK_VALUES = 1 << 22
# Frames of mp3 lean on bits of those before: after a seek some are decoded wrongly. So read on to what is near, which
# costs 25 ms a minute, and begin somewhat before what is not.
_MP3_READ_ON_S = 60
_MP3_PREROLL = 10 * 1152
# The greatest value a sample can have, somewhat rounded down; 8-bit kinds do not come nearer to 1.
_FULL_SCALE = {"PCM_S8": 0.99, "PCM_U8": 0.99, "ULAW": 0.98, "ALAW": 0.98}
# Channels whose sum is this much (20 dB) weaker than the loudest of them cancel each other.
_CANCELLED = 0.1


Channels = Literal["mean", "first"]


class AudioSection(Section):
    """Which recordings are taken."""

    min_s: float = setting(0.1, "shorter audio goes to rejects", unit="s", gt=0)
    max_s: float = setting(600.0, "longer audio goes to rejects, but for what `segment` splits", unit="s", gt=0)
    channels: Channels = setting("mean", "what becomes of several channels: their mean, or the first")


@dataclass(frozen=True)
class Clip:
    """Decoded audio: mono samples (T,), and the share of the source's samples that stand at full scale."""

    samples: Waveform
    clipped: float


class _Reader(Protocol):
    rate_hz: int
    num_channels: int
    num_frames: int  # as the header says
    subtype: str

    def blocks(self, first: int, count: int, block_frames: int) -> Iterator[NDArray[np.float32]]: ...


def decode(
    data: bytes,
    sample_rate_hz: int,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: AudioSection | None = None,
) -> Waveform:
    """Decode a recording, or its span from `start_s` to `end_s`, to mono samples (T,) of about [-1, 1].

    Any rate and number of channels of any format that libsndfile knows (wav, flac, mp3, ogg, opus, aiff ...), and m4a,
    aac, mp4 and webm where PyAV is installed. Raises AudioError with a reason; docs/audio.md lists them.
    """
    return Recording(data).clip(sample_rate_hz, start_s=start_s, end_s=end_s, limits=limits or AudioSection()).samples


class Recording:
    """A recording of which any span can be decoded without the rest."""

    def __init__(self, data: bytes) -> None:
        """Raises AudioError: empty_file, not_audio, needs_av, corrupt, truncated, unsupported_codec, bad_header."""
        if not data:
            message = "an audio file must hold sound, found 0 bytes; copy or record the file again"
            raise AudioError("empty_file", message)
        self._reader = _open(data)
        self._is_cut = signatures.is_cut(data)
        rate_hz, (lowest, highest) = self._reader.rate_hz, _RATES_HZ
        if not lowest <= rate_hz <= highest:
            raise _bad_header(f"a sample rate of {lowest:,} to {highest:,} Hz", f"{rate_hz:,} Hz")
        if self._reader.num_channels < 1:
            raise _bad_header("one channel or more", "none")
        if self._reader.num_frames <= 0:
            raise AudioError("no_samples", "a recording must hold samples, found a header alone; copy the file again")

    @property
    def length_s(self) -> float:
        """Seconds of audio, as far as the header tells the truth."""
        return self._reader.num_frames / self._reader.rate_hz

    def clip(
        self,
        sample_rate_hz: int,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        limits: AudioSection,
    ) -> Clip:
        """Decode a span, or all. Raises AudioError."""
        reader = self._reader
        first, count = self._span(start_s, end_s)
        _check_length(count / reader.rate_hz, limits)
        mixer = _Mixer(reader, limits.channels)
        resample = _Resampler(reader.rate_hz, sample_rate_hz)
        parts = [resample(mixer(block_TC)) for block_TC in self._blocks(first, count)]
        parts = [part for part in (*parts, resample.rest()) if len(part)]
        audio_s = mixer.num_frames / reader.rate_hz
        if count - mixer.num_frames > _SLACK_S * reader.rate_hz:
            raise _truncated(f"{audio_s:.3f} s of {count / reader.rate_hz:.3f} s", audio_s)
        _check_length(audio_s, limits)
        mixer.check(audio_s)
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Clip(np.ascontiguousarray(samples, np.float32), mixer.clipped)

    def stream(self, sample_rate_hz: int, channels: Literal["mean", "first"]) -> Iterator[Waveform]:
        """All samples, in blocks whose sizes do not matter. Raises AudioError."""
        if self._is_cut:
            raise _truncated(f"{self.length_s:.3f} s of the length")
        reader = self._reader
        mixer = _Mixer(reader, channels)
        resample = _Resampler(reader.rate_hz, sample_rate_hz)
        for block_TC in self._blocks(0, reader.num_frames):
            yield resample(mixer(block_TC))
        yield resample.rest()
        if reader.num_frames - mixer.num_frames > _SLACK_S * reader.rate_hz:
            raise _truncated(f"{mixer.num_frames / reader.rate_hz:.3f} s of {self.length_s:.3f} s")
        mixer.check(mixer.num_frames / reader.rate_hz)

    def _blocks(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        return self._reader.blocks(first, count, max(1, _BLOCK_VALUES // self._reader.num_channels))

    def _span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        num_frames, rate_hz = self._reader.num_frames, self._reader.rate_hz
        length_s = num_frames / rate_hz
        start = 0.0 if start_s is None else start_s
        end = length_s if end_s is None else end_s
        if self._is_cut and (end_s is None or end > length_s):
            raise _truncated(f"{length_s:.3f} s of the length", length_s)
        if not 0 <= start < end <= length_s + _SLACK_S:
            needed = f"0 <= start_s < end_s <= {length_s:.3f}, the length of the recording"
            found = f"start_s={start_s}, end_s={end_s}"
            raise AudioError("bad_span", f"a span must have {needed}, found {found}; mend the row")
        first = round(start * rate_hz)
        return first, max(0, min(round(end * rate_hz), num_frames) - first)


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """Reads on without the seek to where it is that soundfile does after every read.

    At each mpg123 would begin anew, complain on the screen and give some wrong samples; and in a flac that was written
    to a pipe, which does not know its length, libsndfile cannot seek.
    """

    def seekable(self) -> bool:
        return False


class _SoundFileReader:
    """Frames (T, C) of what libsndfile reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._open()
        self.rate_hz, self.num_channels = self._sound.samplerate, self._sound.channels
        self.num_frames, self.subtype = self._sound.frames, self._sound.subtype
        # Up to how far ahead frames are decoded and dropped rather than sought.
        is_mp3 = self._sound.format == "MP3"
        self._reach = round(_MP3_READ_ON_S * self.rate_hz) if is_mp3 else 0
        self._preroll = _MP3_PREROLL if is_mp3 else 0
        if self.num_frames > _UNKNOWN_FRAMES:
            self._reach = self.num_frames
            block_frames = _BLOCK_VALUES // self.num_channels
            self.num_frames = sum(map(len, self.blocks(0, self.num_frames, block_frames)))

    def blocks(self, first: int, count: int, block_frames: int) -> Iterator[NDArray[np.float32]]:
        try:
            before = self._run_up(first)
            if self._place != first - before:
                self._go_to(first - before)
            while before > 0 and len(passed_TC := self._read(min(before, block_frames))):
                before -= len(passed_TC)
            while count > 0 and len(block_TC := self._read(min(count, block_frames))):
                count -= len(block_TC)
                yield block_TC
        except soundfile.LibsndfileError as error:
            raise _corrupt(error) from error

    def _run_up(self, first: int) -> int:
        """Frames to decode and drop before frame `first`."""
        for reached in (self._place, 0):
            if 0 <= first - reached <= self._reach:
                return first - reached
        return min(first, self._preroll)

    def _go_to(self, place: int) -> None:
        if place:
            self._sound.seek(place)
            self._place = place
        else:
            self._open()

    def _open(self) -> None:
        self._sound, self._place = _Sound(io.BytesIO(self._data)), 0

    def _read(self, count: int) -> NDArray[np.float32]:
        frames_TC: NDArray[np.float32] = self._sound.read(count, dtype="float32", always_2d=True)
        self._place += len(frames_TC)
        return frames_TC


class _Mixer:
    """Blocks (T, C) -> mono (T,), keeping what has to be known of all of them."""

    def __init__(self, reader: _Reader, channels: Literal["mean", "first"]) -> None:
        self._channels, self._num_channels = channels, reader.num_channels
        self._full_scale = _FULL_SCALE.get(reader.subtype, 0.999)
        self._energy_C = np.zeros(reader.num_channels)
        self._mixed_energy = 0.0
        self._lowest, self._highest = np.inf, -np.inf
        self._num_clipped = 0
        self._finite = True
        self.num_frames = 0

    def __call__(self, block_TC: NDArray[np.float32]) -> Waveform:
        self.num_frames += len(block_TC)
        highest, lowest = float(block_TC.max()), float(block_TC.min())
        if highest >= self._full_scale or lowest <= -self._full_scale:
            self._num_clipped += int(np.count_nonzero(np.abs(block_TC) >= self._full_scale))
        if not (np.isfinite(highest) and np.isfinite(lowest)):
            self._finite = False
            return np.zeros(len(block_TC), np.float32)
        if self._num_channels == 1 or self._channels == "first":
            mono = np.ascontiguousarray(block_TC[:, 0])
        else:
            mono = block_TC.mean(axis=1)
            self._energy_C += np.einsum("tc,tc->c", block_TC, block_TC, dtype=np.float64)
            self._mixed_energy += float(np.dot(mono, mono))
        if self._num_channels > 1:
            highest, lowest = float(mono.max()), float(mono.min())
        self._highest, self._lowest = max(self._highest, highest), min(self._lowest, lowest)
        return mono

    @property
    def clipped(self) -> float:
        return self._num_clipped / max(1, self.num_frames * self._num_channels)

    def check(self, audio_s: float) -> None:
        """Raises AudioError when what has passed is no sound."""
        if not self._finite:
            message = "samples must be finite numbers, found NaN or infinity; export the file again"
            raise AudioError("not_finite", message, audio_s)
        loudest = float(self._energy_C.max())
        if loudest > 0 and self._mixed_energy * self._num_channels**2 < _CANCELLED**2 * loudest:
            found = f"{self._num_channels} channels that cancel each other (one is the other upside down)"
            remedy = "set audio.channels to first, or export the file again"
            raise AudioError("channels_cancel", f"the mean of the channels must hold sound, found {found}; {remedy}")
        if self._lowest == self._highest:
            found = "zeros only" if self._lowest == 0 else f"one value ({self._lowest:.4g}) only"
            where = " in the first channel" if self._channels == "first" and self._num_channels > 1 else ""
            message = f"audio must hold sound, found {found}{where}; record it again or drop the row"
            raise AudioError("silent", message, audio_s)


class _Resampler:
    """Blocks at one rate -> blocks at another; a clip of one block is changed in one go."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._rates, self._held = (from_hz, to_hz), np.empty(0, np.float32)
        self._stream: soxr.ResampleStream | None = None
        self._num_blocks = 0

    def __call__(self, block: Waveform) -> Waveform:
        """What can be given before the next block is known."""
        if self._rates[0] == self._rates[1]:
            return block
        self._num_blocks += 1
        block, self._held = self._held, block
        if self._num_blocks == 1:
            return block
        if self._stream is None:
            self._stream = soxr.ResampleStream(*self._rates, 1, dtype="float32", quality="HQ")
        resampled: Waveform = self._stream.resample_chunk(block)
        return resampled

    def rest(self) -> Waveform:
        """What was held back."""
        resampled = self._held
        if self._stream is not None:
            resampled = self._stream.resample_chunk(resampled, last=True)
        elif self._num_blocks:
            resampled = soxr.resample(resampled, *self._rates, quality="HQ")
        return resampled


def _open(data: bytes) -> _Reader:
    if kind := signatures.container_kind(data):
        return _open_container(data, kind)
    try:
        return _SoundFileReader(data)
    except soundfile.LibsndfileError as error:
        if not signatures.soundfile_kind(data):
            needed, remedy = "audio (wav, flac, mp3, ogg, opus, m4a ...)", "bring the recording or drop the row"
            found = signatures.describe(data)
            raise AudioError("not_audio", f"a file must be {needed}, found {found}; {remedy}") from error
        header = signatures.wav_header(data)
        if header is None:
            raise _corrupt(error) from error
        if not header.rate_hz or not 0 < header.num_channels <= _MAX_CHANNELS:
            found = f"{header.num_channels:,} channels at {header.rate_hz:,} Hz"
            raise _bad_header(f"1 to {_MAX_CHANNELS:,} channels and a sample rate", found) from error
        codec = f"wav of format tag {header.format_tag:#06x}"
        try:
            return _open_container(data, codec)
        except AudioError as unreadable:
            if unreadable.reason == "needs_av":
                raise
            needed, remedy = "of a codec that libsndfile or FFmpeg decodes", "convert the file"
            message = f"audio must be {needed}, found {codec}; {remedy}"
            raise AudioError("unsupported_codec", message) from error


def _open_container(data: bytes, kind: str) -> _Reader:
    if not containers.installed():
        needed, remedy = "of a kind that the installed packages read", "pip install 'cslm[m4a]', which brings FFmpeg"
        message = f"audio must be {needed}, found {kind}, which needs the package av; {remedy}, or convert the file"
        raise AudioError("needs_av", message)
    return containers.ContainerReader(data)


def _check_length(audio_s: float, limits: AudioSection) -> None:
    if audio_s < limits.min_s:
        needed, remedy = f"at least {limits.min_s} s (audio.min_s)", "lower the limit or drop the row"
        raise AudioError("too_short", f"audio must last {needed}, found {audio_s:.3f} s; {remedy}", audio_s)
    if audio_s > limits.max_s:
        needed, remedy = f"at most {limits.max_s} s (audio.max_s)", "give its utterances as spans or raise the limit"
        raise AudioError("too_long", f"audio must last {needed}, found {audio_s:.1f} s; {remedy}", audio_s)


def _corrupt(error: Exception) -> AudioError:
    fault = getattr(error, "error_string", error)
    return AudioError("corrupt", f"audio must decode to its end, found damage ({fault}); copy the file again")


def _truncated(found: str, audio_s: float = 0.0) -> AudioError:
    message = f"a recording must be whole, found {found} that its header promises; copy the file again"
    return AudioError("truncated", message, audio_s)


def _bad_header(needed: str, found: str) -> AudioError:
    return AudioError("bad_header", f"the header of a file must name {needed}, found {found}; export the file again")

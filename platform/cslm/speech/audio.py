"""Bytes of a recording -> mono float32 samples at the rate a tokenizer wants, or an AudioError that says why not.

Works on bytes, not on paths: where they came from (a file, an object store, a column of a table) is no matter here.
soundfile opens a file in a fraction of a millisecond, which decides the speed on short clips; soxr's HQ resampler
keeps aliases below -130 dB. Neither needs FFmpeg.
"""

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.errors import AudioError

Waveform = NDArray[np.float32]

# Ends of spans come from annotation tools that round; a span may pass the end of its recording by this much.
_SPAN_SLACK_S = 0.1
_KNOWN_HEADS = (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04", b"FORM")


class AudioSection(Section):
    """Which recordings are taken."""

    min_s: float = setting(0.1, "shorter audio goes to rejects", unit="s", gt=0)
    max_s: float = setting(600.0, "longer audio goes to rejects: give its utterances as spans", unit="s", gt=0)


def decode(
    data: bytes,
    sample_rate_hz: int,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: AudioSection | None = None,
) -> Waveform:
    """Decode a recording, or its span from `start_s` to `end_s`, to mono samples (T,) of about [-1, 1].

    Any format libsndfile knows (wav, flac, mp3, ogg ...), any rate and number of channels; channels are averaged.
    Raises AudioError with a reason: empty_file, not_audio, corrupt, bad_span, no_samples, too_short, too_long,
    not_finite, silent.
    """
    limits = limits or AudioSection()
    if not data:
        raise AudioError("empty_file", "an audio file must hold sound, found 0 bytes; copy or record the file again")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            source_rate_hz = sound.samplerate
            first, count = _span(sound.frames, source_rate_hz, start_s, end_s)
            _check_length(count / source_rate_hz, limits)
            sound.seek(first)
            samples_TC = sound.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(data, error) from error
    # A file cut short may promise more samples in its header than it has.
    audio_s = len(samples_TC) / source_rate_hz
    _check_length(audio_s, limits)
    samples = samples_TC[:, 0] if samples_TC.shape[1] == 1 else samples_TC.mean(axis=1)
    if not np.isfinite(samples).all():
        message = "samples must be finite numbers, found NaN or infinity; export the file again"
        raise AudioError("not_finite", message, audio_s)
    if not samples.any():
        raise AudioError("silent", "audio must hold sound, found zeros only; record it again or drop the row", audio_s)
    if source_rate_hz != sample_rate_hz:
        samples = soxr.resample(samples, source_rate_hz, sample_rate_hz, quality="HQ")
    return np.ascontiguousarray(samples, np.float32)


def _span(num_frames: int, rate_hz: int, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    if num_frames == 0:
        raise AudioError("no_samples", "a recording must hold samples, found a header alone; copy the file again")
    length_s = num_frames / rate_hz
    start = 0.0 if start_s is None else start_s
    end = length_s if end_s is None else end_s
    if not 0 <= start < end <= length_s + _SPAN_SLACK_S:
        needed = f"0 <= start_s < end_s <= {length_s:.3f}, the length of the recording"
        raise AudioError("bad_span", f"a span must have {needed}, found start_s={start_s}, end_s={end_s}; mend the row")
    first = round(start * rate_hz)
    return first, max(0, min(round(end * rate_hz), num_frames) - first)


def _check_length(audio_s: float, limits: AudioSection) -> None:
    if audio_s < limits.min_s:
        needed, remedy = f"at least {limits.min_s} s (audio.min_s)", "lower the limit or drop the row"
        raise AudioError("too_short", f"audio must last {needed}, found {audio_s:.3f} s; {remedy}", audio_s)
    if audio_s > limits.max_s:
        needed, remedy = f"at most {limits.max_s} s (audio.max_s)", "give its utterances as spans or raise the limit"
        raise AudioError("too_long", f"audio must last {needed}, found {audio_s:.1f} s; {remedy}", audio_s)


def _unreadable(data: bytes, error: Exception) -> AudioError:
    if data[:4] in _KNOWN_HEADS:
        return AudioError("corrupt", f"audio must decode to its end, found damage ({error}); copy the file again")
    looks = "text" if _is_text(data[:512]) else f"bytes that begin {data[:8].hex(' ')}"
    needed, remedy = "audio that libsndfile reads (wav, flac, mp3, ogg ...)", "convert the file or drop the row"
    return AudioError("not_audio", f"a file must be {needed}, found {looks} ({error}); {remedy}")


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)

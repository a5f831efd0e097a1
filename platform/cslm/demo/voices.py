"""Synthetic speech by espeak-ng through ctypes, from the library that the wheel `espeakng-loader` carries.

The library keeps state across calls (oscillator phases, flutter, a noise generator seeded by the clock), so that one
sentence said twice differs in nearly every sample. Every call here loads it afresh and sets the seed: that costs
half a millisecond, and speech becomes a pure function of text, voice and speaker, in any process and any order.
"""

import _ctypes
import ctypes as c
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cslm.errors import MissingDependency

SAMPLE_RATE_HZ = 22050

# Values of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_EVENT_END, _EVENT_WORD, _EVENT_PHONE = 0, 1, 7
# Events of phones, named in IPA. The audio is the same with and without them.
_INITIALISE_PHONE_EVENTS, _INITIALISE_IPA = 1, 2
_PHONEMES_IPA = 2

_WORD_EDGE = re.compile(r"^\W+|\W+$")
_STRESS = str.maketrans("", "", "ˈˌ")


class _Event(c.Structure):
    _fields_ = (
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position_ms", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", c.c_char * 8),
    )


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


@dataclass(frozen=True)
class Speaker:
    """A synthetic person: an espeak-ng voice variant at a pitch (0 to 100) and a rate (words a minute)."""

    variant: str
    pitch: int
    rate: int

    @property
    def name(self) -> str:
        """The name under which the speaker stands in tables."""
        return f"{self.variant}-p{self.pitch}-r{self.rate}"

    @classmethod
    def of(cls, name: str) -> "Speaker":
        """The speaker of a `name`."""
        variant, pitch, rate = name.rsplit("-", 2)
        return cls(variant, int(pitch[1:]), int(rate[1:]))


@dataclass(frozen=True)
class SpokenWord:
    """A word and the time at which it begins; Mandarin counts each syllable as one."""

    text: str
    start_s: float


@dataclass(frozen=True)
class SpokenPhone:
    """A phone in IPA, without stress, and the time at which it begins; the empty text is a pause."""

    text: str
    start_s: float


@dataclass(frozen=True)
class Speech:
    """One utterance: `samples_T` int16 at `SAMPLE_RATE_HZ`, its words and its phones, both in order of time."""

    samples_T: npt.NDArray[np.int16]
    words: tuple[SpokenWord, ...]
    phones: tuple[SpokenPhone, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length of the utterance."""
        return len(self.samples_T) / SAMPLE_RATE_HZ


def synthesise(
    text: str, voice: str, speaker: Speaker, *, rate_factor: float = 1.0, spoken: str | None = None
) -> Speech:
    """Say `text` in an espeak-ng `voice` (`en-us`, `cmn`, ...) as `speaker`.

    `spoken` is a respelling of the same length that the library reads in place of `text`. Raises ValueError for a voice
    or variant that the library does not know, and MissingDependency without the wheel.
    """
    read = text if spoken is None else spoken
    if len(read) != len(text):
        raise ValueError(f"the respelling {read!r} must be as long as {text!r}: word positions are shared")
    chunks: list[npt.NDArray[np.int16]] = []
    starts: list[tuple[int, float]] = []
    phones: list[SpokenPhone] = []

    def collect(samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(num_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            event = events[index]
            start_s = event.audio_position_ms / 1000
            if event.type == _EVENT_WORD:
                starts.append((event.text_position - 1, start_s))
            if event.type == _EVENT_PHONE:
                # The name has room for eight bytes: what is cut inside a letter loses that letter.
                phones.append(SpokenPhone(event.id.decode(errors="ignore").translate(_STRESS), start_s))
            index += 1
        return 0

    with _library() as library:
        # A name of its own keeps the callback alive for as long as the library may call it.
        callback = _Callback(collect)
        library.espeak_SetSynthCallback(callback)
        _set_voice(library, f"{voice}+{speaker.variant}")
        library.espeak_SetParameter(_PARAMETER_RATE, round(speaker.rate * rate_factor), 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, speaker.pitch, 0)
        data = read.encode()
        library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    samples_T = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    ends = [position for position, _ in starts[1:]] + [len(text)]
    words = [
        SpokenWord(_WORD_EDGE.sub("", text[at:end]), time_s) for (at, time_s), end in zip(starts, ends, strict=True)
    ]
    return Speech(samples_T, tuple(words), tuple(phones))


def phonemes(text: str, voice: str) -> str:
    """How a voice reads `text`, in IPA as espeak-ng writes it, clauses parted by `|`."""
    clauses = []
    with _library() as library:
        _set_voice(library, voice)
        library.espeak_TextToPhonemes.restype = c.c_char_p
        data = c.create_string_buffer(text.encode())
        position = c.c_void_p(c.addressof(data))
        while position.value:
            clauses.append(library.espeak_TextToPhonemes(c.byref(position), _CHARS_UTF8, _PHONEMES_IPA).decode())
    return "|".join(clauses)


@contextmanager
def _library() -> Iterator[c.CDLL]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingDependency("espeakng-loader", "demo", "the synthetic voices of the demo corpus") from error
    library = c.CDLL(espeakng_loader.get_library_path())
    data_path = espeakng_loader.get_data_path().encode()
    options = _INITIALISE_PHONE_EVENTS | _INITIALISE_IPA
    sample_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path, options)
    if sample_rate != SAMPLE_RATE_HZ:
        raise RuntimeError(f"espeak-ng must start at {SAMPLE_RATE_HZ} Hz, found {sample_rate} (data in {data_path!r})")
    library.espeak_ng_SetRandSeed(1)
    try:
        yield library
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def _set_voice(library: c.CDLL, name: str) -> None:
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise ValueError(f"espeak-ng must know the voice, found {name}")

"""The speech of an answer as sound: played by a command while more of it comes, and as a wav file."""

import io
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

import numpy as np
import soundfile
from numpy.typing import NDArray

from cslm.errors import ConfigError
from cslm.speech.decoder import SpeechDecoder

Waveform = NDArray[np.float32]


def wav(samples: Waveform, sample_rate_hz: int) -> bytes:
    """Samples (T,) as a wav file of 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class Voice:
    """The speech of one answer: units in, sound out, to the player while the model goes on."""

    def __init__(self, decoder: SpeechDecoder, speaker: str | None = None, play: str | None = None) -> None:
        """`play`: the command of a `Player`. Raises ConfigError for a speaker that the decoder does not know."""
        self.rate_hz = decoder.sample_rate_hz
        self._stream = decoder.stream(speaker=speaker)
        self._parts: list[Waveform] = []
        self._player = Player(play, self.rate_hz) if play else None

    @property
    def samples(self) -> Waveform:
        """All there is so far."""
        return np.concatenate(self._parts) if self._parts else np.empty(0, np.float32)

    def add(self, units: Sequence[int]) -> bool:
        """Speak more; whether sound came of it."""
        return self._give(self._stream.add(units))

    def end(self) -> bool:
        """Speak the rest; whether sound came of it."""
        return self._give(self._stream.end())

    def close(self) -> None:
        """Wait until all is played."""
        if self._player is not None:
            self._player.close()

    def _give(self, samples: Waveform) -> bool:
        if not len(samples):
            return False
        self._parts.append(samples)
        if self._player is not None:
            self._player.play(samples)
        return True


class Player:
    """A command that plays 16-bit mono samples from its standard input, fed beside the model."""

    def __init__(self, command: str, rate_hz: int) -> None:
        """`{rate}` in the command stands for the rate. Raises ConfigError when it cannot be run."""
        words = shlex.split(command.replace("{rate}", str(rate_hz)))
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE)
        except OSError as error:
            raise ConfigError(f"a player must be a command that can be run, found {command!r}: {error}") from error
        # A pipe holds two seconds of sound; a model that is quicker must not wait for the listener.
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def play(self, samples: Waveform) -> None:
        """Play more, after what is playing."""
        self._waiting.put((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())

    def close(self) -> None:
        """Wait until all is played."""
        self._waiting.put(None)
        self._thread.join()
        code = self._process.wait()
        if code:
            print(f"the player ended with exit code {code}", file=sys.stderr)

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while (data := self._waiting.get()) is not None:
                pipe.write(data)
                pipe.flush()
            pipe.close()
        except BrokenPipeError:
            # The listener has ended it; its exit code says whether that was a fault.
            return

"""An aligner whose outputs are made up, so that it is known where in a clip each symbol is heard."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LETTERS = " abcdefghijklmnopqrstuvwxyz山水火木金土"
FRAME_RATE_HZ = 50.0
RATE_HZ = 16_000


class LetterAligner:
    """Hears in each clip what `said` has for its number of samples: (symbol, seconds) pairs, all else is blank."""

    sample_rate_hz = RATE_HZ
    frame_rate_hz = FRAME_RATE_HZ
    blank = 0
    batch_s = 3.0

    def __init__(self, said: dict[int, list[tuple[str, float]]] | None = None, certainty: float = 8.0) -> None:
        self._said, self._certainty = said or {}, certainty

    def spell(self, word: str, language: str) -> list[tuple[str, int | None]]:
        return [(one, LETTERS.index(one) + 1 if one in LETTERS else None) for one in word.lower()]

    def separator(self, language: str) -> int | None:
        return 1

    def log_probs(self, waveforms: Sequence[NDArray[np.float32]], language: str) -> list[NDArray[np.float32]]:
        return [self._outputs(len(waveform)) for waveform in waveforms]

    def _outputs(self, num_samples: int) -> NDArray[np.float32]:
        logits_FV = np.zeros((max(1, int(num_samples / RATE_HZ * FRAME_RATE_HZ)), len(LETTERS) + 1), np.float32)
        logits_FV[:, 0] = self._certainty
        for letter, at_s in self._said.get(num_samples, []):
            frame = round(at_s * FRAME_RATE_HZ)
            logits_FV[frame, 0] = 0
            logits_FV[frame, LETTERS.index(letter) + 1] = self._certainty
        return logits_FV - np.log(np.exp(logits_FV).sum(1, keepdims=True))

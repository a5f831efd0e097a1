"""A tokenizer that waits instead of computing, so that a simulated cluster shows what its organisation costs."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class WaitingTokenizer:
    """Waits for `wait_s` a clip and then says the same code for every frame."""

    fingerprint = "waiting"
    sample_rate_hz = 16_000
    frame_rate_hz = 50.0
    codebook_size = 4
    max_window_s = None
    codebook = None
    batch_s = 1.0

    def __init__(self, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s

    def to(self, device: str) -> "WaitingTokenizer":
        """Nothing to move."""
        return self

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Codes (F,) of each waveform (T,)."""
        time.sleep(self._wait_s * len(waveforms))
        return [np.ones(max(1, len(waveform) // 320), np.uint16) for waveform in waveforms]

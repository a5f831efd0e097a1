"""The recogniser that jobs/fit_tokenizer.py learned from the user's own corpus, as an aligner."""

from collections.abc import Sequence

import torch

from cslm.speech import ctc
from cslm.speech.aligners import Float32
from cslm.speech.recogniser import features
from cslm.speech.recogniser.network import FRAME_RATE_HZ
from cslm.speech.tokenizers.learned import LearnedTokenizer
from cslm.speech.transcript import normalise


class LearnedAligner:
    """One network for all languages of its corpus; its alphabet is what their transcripts are written in."""

    sample_rate_hz = features.SAMPLE_RATE_HZ
    frame_rate_hz = float(FRAME_RATE_HZ)
    blank = ctc.BLANK

    def __init__(self, path: str, device: str = "cpu") -> None:
        self._recogniser = LearnedTokenizer.load(path).recogniser.to(torch.device(device))
        self._numbers = {name: number for number, name in enumerate(self._recogniser.alphabet.characters, 1)}

    @property
    def batch_s(self) -> float:
        """Clips are computed one by one on a CPU, and in stretches of minutes elsewhere."""
        return 30.0 if self._recogniser.device.type == "cpu" else 800.0

    def spell(self, word: str, language: str) -> list[tuple[str, int | None]]:
        """The characters of the normal form of transcripts, in which a word may hold a space for an apostrophe."""
        return [(character, self._numbers.get(character)) for character in normalise(word)]

    def separator(self, language: str) -> int | None:
        """The symbol of the space."""
        return self._numbers.get(" ")

    def log_probs(self, waveforms: Sequence[Float32], language: str) -> list[Float32]:
        """Log probability of each symbol (F, V) of each clip (T,)."""
        return self._recogniser.log_probs(waveforms)

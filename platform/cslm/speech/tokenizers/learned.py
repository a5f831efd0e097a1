"""Units of a recogniser that was learned from the user's own corpus: k-means over its middle frames.

`jobs/fit_tokenizer.py` makes the folder; the same folder recognises speech (see `cslm.speech.recogniser`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from cslm.errors import ConfigError
from cslm.speech.recogniser.features import SAMPLE_RATE_HZ, WINDOW_S
from cslm.speech.recogniser.network import FRAME_RATE_HZ
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizers import LearnedSection
from cslm.speech.tokenizers.networks import WEIGHTS_FILE, Codes, Float32, NetworkTokenizer, pack_tensors, to_codes
from cslm.speech.tokenizers.saved import Saved

CENTROIDS_FILE = "centroids.safetensors"
# Codes that one step of a stream gives, in seconds.
_STREAM_STEP_S = 60.0


class LearnedTokenizer(NetworkTokenizer):
    """Nearest centroid of each frame of the recogniser's middle, or of the mean of two neighbours at 25 Hz."""

    kind = "learned"
    revision = 1
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved)
        self.recogniser = Recogniser.unpack(saved.document["network"], load_tensors(saved.files[WEIGHTS_FILE]))
        self._centroids_KD = load_tensors(saved.files[CENTROIDS_FILE])["centroids"]
        self.codebook = self._centroids_KD.numpy()
        self.to("cpu")

    @classmethod
    def make(cls, settings: LearnedSection, waveforms: Sequence[Float32], device: str = "cpu") -> Saved:
        """Raises ConfigError: it takes transcripts and a job of its own to learn one."""
        raise ConfigError(
            "tokenizer.path: must name a folder that jobs/fit_tokenizer.py made when tokenizer.kind is learned, found "
            "none there; run that job on a corpus with transcripts first, or take tokenizer.kind kmeans"
        )

    @classmethod
    def pack(cls, recogniser: Recogniser, centroids_KD: Tensor, frame_rate_hz: float) -> Saved:
        """A recogniser and centroids of its middle frames, put together."""
        network, weights = recogniser.pack()
        return Saved.of(
            {WEIGHTS_FILE: pack_tensors(weights), CENTROIDS_FILE: pack_tensors({"centroids": centroids_KD})},
            kind=cls.kind,
            revision=cls.revision,
            sample_rate_hz=SAMPLE_RATE_HZ,
            frame_rate_hz=frame_rate_hz,
            codebook_size=len(centroids_KD),
            settings={"precision": "fp32", "frame_rate_hz": frame_rate_hz},
            network=network,
        )

    @property
    def context_s(self) -> float:
        """Seconds to either side that a code depends on: two windows of normalisation, half each, and the network."""
        return WINDOW_S + (self.recogniser.network.reach + 2) / FRAME_RATE_HZ

    def encode_stream(self, blocks: Iterable[Float32]) -> Iterator[Codes]:
        """The codes of audio that comes in blocks (T,) of any size, as far as each step knows them; bounded memory.

        Together they are those of the whole. A code is given once `context_s` behind it, and up to a minute more, is
        there.
        """
        spacing = round(SAMPLE_RATE_HZ / self.frame_rate_hz)
        # Whole codes, so that every step's frames lie on the grid of the whole.
        step, context = (
            spacing * -(-round(seconds * SAMPLE_RATE_HZ) // spacing) for seconds in (_STREAM_STEP_S, self.context_s)
        )
        held = np.empty(0, np.float32)
        before = 0  # samples held that are behind what was given
        for block in blocks:
            held = np.concatenate((held, block))
            while len(held) >= before + step + context:
                codes = self.encode([held[: before + step + context]])[0]
                yield codes[before // spacing : (before + step) // spacing]
                dropped = max(0, before + step - context)
                held, before = held[dropped:], before + step - dropped
        if len(held) > before:
            rest = self.encode([held])[0][before // spacing :]
            if len(rest):
                yield rest

    def _place(self, device: torch.device) -> None:
        self.recogniser.to(device)
        self._centroids_KD = self._centroids_KD.to(device)
        self._half_norms_K = (self._centroids_KD**2).sum(1) / 2

    def _encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        # Least squared distance = greatest x.c - |c|^2 / 2.
        return [
            to_codes((frames_FD @ self._centroids_KD.T - self._half_norms_K).argmax(1))
            for frames_FD in unit_frames(self.recogniser, waveforms, self.frame_rate_hz)
        ]


def unit_frames(recogniser: Recogniser, waveforms: Sequence[Float32], frame_rate_hz: float) -> list[Tensor]:
    """The frames (F, D) of each clip (T,) that are clustered, F = max(1, T * frame_rate_hz // 16000)."""
    together = round(FRAME_RATE_HZ / frame_rate_hz)
    return [pooled(frames_FD, together) for frames_FD in recogniser.unit_frames(waveforms)]


def pooled(frames_FD: Tensor, together: int) -> Tensor:
    """Means of so many neighbouring frames; what is left over at the end falls out, unless there is nothing else."""
    if together == 1:
        return frames_FD
    whole = len(frames_FD) // together
    if whole == 0:
        return frames_FD.mean(0, keepdim=True)
    means: Any = frames_FD[: whole * together].view(whole, together, -1).mean(1)
    return means  # type: ignore[no-any-return]

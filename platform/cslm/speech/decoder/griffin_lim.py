"""The decoder that needs no training: the mean mel of every unit, made audible by Griffin-Lim.

Griffin and Lim 1984: phases are found by going back and forth between spectra and samples. One hears what is said and
in whose voice, about, and a hum; it stands in until a decoder is trained.
"""

from collections.abc import Iterable, Mapping

import torch
import torchaudio
from torch import Tensor

from cslm.speech.decoder.mel import WINDOW_HOPS, MelShape, hann

_ITERATIONS = 32


class UnitMeans:
    """Normalised mel patches (K, P) and durations (K,) of units, and what speaks them."""

    def __init__(self, mel: MelShape, patches_KP: Tensor, durations_K: Tensor) -> None:
        self.mel_shape = mel
        self.patch = patches_KP.shape[1]
        # In frames of units: a patch knows nothing of its neighbours, only Griffin-Lim's windows do.
        self.reach = WINDOW_HOPS
        self.duration_reach = 0
        self._patches_KP, self._durations_K = patches_KP, durations_K
        self._spread_MN, self._window_W = mel.spread(), hann(mel.window)

    def to(self, device: torch.device) -> "UnitMeans":
        """Move to a device and return self."""
        for name in ("_patches_KP", "_durations_K", "_spread_MN", "_window_W"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""
        return {"patches": self._patches_KP, "durations": self._durations_K}

    @classmethod
    def fit(
        cls,
        mel: MelShape,
        codebook_size: int,
        clips: Iterable[tuple[Tensor, Tensor, Tensor]],
    ) -> "UnitMeans":
        """Means over clips: units (U,), durations (U,), normalised patches (F, P); unseen units get the mean of all."""
        sums: Tensor | None = None
        frames_K, runs_K = torch.zeros(codebook_size), torch.zeros(codebook_size)
        for units_U, durations_U, patches_FP in clips:
            if sums is None:
                sums = torch.zeros(codebook_size, patches_FP.shape[1], dtype=torch.float64)
            sums.index_add_(0, units_U.repeat_interleave(durations_U), patches_FP.double())
            frames_K.index_add_(0, units_U, durations_U.float())
            runs_K.index_add_(0, units_U, torch.ones(len(units_U)))
        assert sums is not None
        seen = frames_K > 0
        patches_KP = (sums / frames_K.clamp(min=1)[:, None]).float()
        patches_KP[~seen] = (sums.sum(0) / frames_K.sum()).float()
        durations_K = torch.where(seen, frames_K / runs_K.clamp(min=1), torch.ones(())).clamp(min=1)
        return cls(mel, patches_KP, durations_K)

    def expected_frames(self, units_U: Tensor, voice_V: Tensor) -> Tensor:
        """Frames (U,) that each unit lasts on average: at least 1, and broken."""
        return self._durations_K[units_U]

    def mel(self, codes_T: Tensor, voice_V: Tensor, noise_TP: Tensor) -> Tensor:
        """Codes of frames (T,) -> log mel (F, M)."""
        mean_M, deviation_M = voice_V.chunk(2)
        return self._patches_KP[codes_T].view(-1, self.mel_shape.num_bands) * deviation_M + mean_M

    def samples(self, mel_FM: Tensor) -> Tensor:
        """Log mel (F, M) -> samples (F * hop,)."""
        shape = self.mel_shape
        # Frames are centred on their hops: half a window less than one beside the clip.
        beside = WINDOW_HOPS // 2
        padded_FM = torch.nn.functional.pad(mel_FM, (0, 0, beside, beside), value=-12.0)
        magnitudes_NF = (padded_FM.exp() @ self._spread_MN).T
        length = (magnitudes_NF.shape[1] - 1) * shape.hop
        samples_T = torchaudio.functional.griffinlim(
            magnitudes_NF, self._window_W, shape.window, shape.hop, shape.window, 1.0, _ITERATIONS, 0.99, length, False
        )
        start = beside * shape.hop - shape.hop // 2
        found_T: Tensor = samples_T[start : start + len(mel_FM) * shape.hop]
        return found_T


def unpack(mel: MelShape, tensors: Mapping[str, Tensor]) -> UnitMeans:
    """The decoder of what `tensors` gave."""
    return UnitMeans(mel, tensors["patches"], tensors["durations"])

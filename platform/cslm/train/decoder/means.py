"""The decoder that needs no training, fitted on clips: the mean mel and length of every unit."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cslm.data.clips import Clip
from cslm.speech.decoder.griffin_lim import UnitMeans
from cslm.speech.decoder.networks import DecoderShape
from cslm.train.decoder.feed import samples_of


def fit(clips: Sequence[Clip], voices: Mapping[str, Tensor], shape: DecoderShape) -> UnitMeans:
    """Means over clips whose speakers' voices (V,) are known."""

    def normalised() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for clip in clips:
            mean_M, deviation_M = voices[clip.speaker].chunk(2)
            mel_FM = (shape.mel.log_mel(samples_of(clip, shape))[0] - mean_M) / deviation_M
            units, durations = (torch.from_numpy(one.astype(np.int64)) for one in (clip.units, clip.durations))
            yield units, durations, mel_FM.view(clip.num_frames, -1)

    return UnitMeans.fit(shape.mel, shape.codebook_size, normalised())

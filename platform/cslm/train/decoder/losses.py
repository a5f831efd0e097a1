"""What each part of the decoder is trained by.

Durations: the likelihood of their frames beyond the first. Mean mel: absolute error. Flow: squared error of the
velocity. Vocoder: distances of spectra at three resolutions (Yamamoto et al. 2020, arXiv:1910.11480) and of mels;
without a discriminator, which would take longer to be of use than small budgets last.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from cslm.speech.decoder.durations import negative_log_likelihood
from cslm.speech.decoder.mel import MelShape, hann
from cslm.speech.decoder.networks import DIFFERENCE_SCALE, Networks

# Windows of the three resolutions; hops are a quarter.
_WINDOWS = (1024, 512, 256)
_MEL_WEIGHT = 1.0
_TINY = 1e-4


@dataclass(frozen=True)
class Clips:
    """Clips behind each other on one axis of unit frames, T, and on one of merged units, U.

    `mask_*` are 1 where a clip is; `clip_T` and `clip_U` say which it is; `voices_NV` has the voice of each.
    """

    codes_T: Tensor
    mel_TP: Tensor
    mask_T1: Tensor
    clip_T: Tensor
    units_U: Tensor
    durations_U: Tensor
    mask_U1: Tensor
    clip_U: Tensor
    voices_NV: Tensor

    def to(self, device: torch.device) -> "Clips":
        """The same on a device."""
        return Clips(*(getattr(self, one.name).to(device) for one in fields(self)))


def of_units(networks: Networks, clips: Clips, generator: torch.Generator, with_flow: bool) -> dict[str, Tensor]:
    """Sums over all frames, or units, of the losses of durations, mean and flow; each is a mean within a frame."""
    told_NV = networks.told(clips.voices_NV)
    log_U = networks.durations(clips.units_U[None], told_NV[clips.clip_U][None], clips.mask_U1[None])[0]
    unlikely_U = negative_log_likelihood(log_U, clips.durations_U)
    mask_BT1 = clips.mask_T1[None]
    known_BTC, mean_BTP = networks.acoustic(clips.codes_T[None], told_NV[clips.clip_T][None], mask_BT1)
    patches_BTP = _normalised(networks, clips)[None]
    mean_loss = ((mean_BTP - patches_BTP).abs().mean(-1, keepdim=True) * mask_BT1).sum()
    found = {"durations": (unlikely_U * clips.mask_U1[:, 0]).sum(), "mean": mean_loss}
    if with_flow:
        flow_BTP = _flow(networks, clips, patches_BTP, known_BTC, mean_BTP.detach(), generator)
        found["flow"] = (flow_BTP.mean(-1, keepdim=True) * mask_BT1).sum()
    return found


def _normalised(networks: Networks, clips: Clips) -> Tensor:
    bands = networks.shape.mel.num_bands
    mel_TKM = clips.mel_TP.view(len(clips.mel_TP), -1, bands)
    return networks.normalise(mel_TKM, clips.voices_NV[clips.clip_T][:, None]).flatten(1)


def _flow(
    networks: Networks,
    clips: Clips,
    patches_BTP: Tensor,
    known_BTC: Tensor,
    mean_BTP: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Squared error of the velocity at a time that is drawn for each clip."""
    difference_BTP = (patches_BTP - mean_BTP) / DIFFERENCE_SCALE
    device = difference_BTP.device
    time_N = torch.rand(len(clips.voices_NV), generator=generator).to(device)
    noise_BTP = torch.randn(difference_BTP.shape, generator=generator).to(device)
    at_BT1 = time_N[clips.clip_T][None, :, None]
    state_BTP = (1 - at_BT1) * noise_BTP + at_BT1 * difference_BTP
    velocity_BTP = networks.acoustic.flow(state_BTP, time_N, known_BTC, mean_BTP, clips.mask_T1[None], clips.clip_T)
    return F.mse_loss(velocity_BTP, difference_BTP - noise_BTP, reduction="none")


def of_samples(made_BT: Tensor, wanted_BT: Tensor, mel: MelShape, wanted_mel_BFM: Tensor) -> Tensor:
    """Mean over crops of the distances of spectra."""
    total = _MEL_WEIGHT * (mel.log_mel(made_BT) - wanted_mel_BFM).abs().mean()
    for window in _WINDOWS:
        made, wanted = _magnitudes(made_BT, window), _magnitudes(wanted_BT, window)
        converged = torch.linalg.vector_norm(made - wanted) / torch.linalg.vector_norm(wanted).clamp(min=_TINY)
        total = total + converged / len(_WINDOWS) + (made.log() - wanted.log()).abs().mean() / len(_WINDOWS)
    return total


def _magnitudes(samples_BT: Tensor, window: int) -> Tensor:
    spectra = torch.stft(
        samples_BT, window, window // 4, window=hann(window).to(samples_BT.device), center=True, return_complex=True
    )
    return (spectra.real**2 + spectra.imag**2 + _TINY**2).sqrt()

"""What speaks in a decoder, seen from outside: durations, mel and samples, of networks or of their stand-in."""

from typing import Protocol, Self

import torch
from torch import Tensor

from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.networks import Networks


class Speaking(Protocol):
    """Units -> durations -> mel -> samples; voices (V,) are means and deviations of the mel bands."""

    mel_shape: MelShape
    patch: int  # values that the mel of a unit's frame has, and so has noise
    reach: int  # frames of units to either side that a frame's samples depend on
    duration_reach: int  # units to either side that a duration depends on

    def to(self, device: torch.device) -> Self:
        """Move to a device and return self."""
        ...

    def expected_frames(self, units_U: Tensor, voice_V: Tensor) -> Tensor:
        """Frames (U,) that each unit is expected to last: at least 1, and broken."""
        ...

    def mel(self, codes_T: Tensor, voice_V: Tensor, noise_TP: Tensor) -> Tensor:
        """Codes of frames (T,) -> log mel (F, M)."""
        ...

    def samples(self, mel_FM: Tensor) -> Tensor:
        """Log mel (F, M) -> samples (F * hop,)."""
        ...


class Spoken:
    """Trained networks as what speaks: the flow goes so many steps, from noise of a deviation `temperature`."""

    def __init__(self, networks: Networks, flow_steps: int, temperature: float) -> None:
        self.networks = networks.eval().requires_grad_(False)
        self.mel_shape = networks.shape.mel
        self.patch = networks.acoustic.patch
        self.flow_steps, self.temperature = flow_steps, temperature
        of_vocoder = -(-networks.vocoder.reach // networks.shape.mels_a_frame)
        self.reach = networks.acoustic.reach + flow_steps * networks.acoustic.flow.reach + of_vocoder
        self.duration_reach = networks.durations.reach

    def to(self, device: torch.device) -> "Spoken":
        """Move to a device and return self."""
        self.networks.to(device)
        return self

    def expected_frames(self, units_U: Tensor, voice_V: Tensor) -> Tensor:
        """Frames (U,) that each unit is expected to last: at least 1, and broken."""
        return self.networks.durations.expected(units_U[None], self.networks.told(voice_V[None])[None])[0]

    def mel(self, codes_T: Tensor, voice_V: Tensor, noise_TP: Tensor) -> Tensor:
        """Codes of frames (T,) -> log mel (F, M)."""
        noise_BTP = self.temperature * noise_TP[None]
        return self.networks.mel(codes_T[None], voice_V[None], noise_BTP, self.flow_steps)[0]

    @torch.no_grad()
    def samples(self, mel_FM: Tensor) -> Tensor:
        """Log mel (F, M) -> samples (F * hop,)."""
        return self.networks.vocoder(mel_FM[None])[0]  # type: ignore[no-any-return]

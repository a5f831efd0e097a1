"""Units of HuBERT-style networks (Hsu et al. 2021, arXiv:2106.07447): k-means over the output of one layer.

The network is a Hugging Face folder of HuBERT, wav2vec 2.0 or WavLM; the centroids are fitted on the corpus. What lies
above the chosen layer is cut off and not kept. Base-sized models normalise their first convolution over time, which
counts the padding of a batch as sound; here that norm is told how long each clip is.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cslm import storage
from cslm.errors import CheckpointError, ConfigError
from cslm.speech import windows
from cslm.speech.tokenizers import HubertSection
from cslm.speech.tokenizers.networks import (
    WEIGHTS_FILE,
    Codes,
    Float32,
    NetworkTokenizer,
    lengthened,
    pack_model,
    pack_tensors,
    read_model,
    settle_precision,
    to_codes,
    unpack_model,
)
from cslm.speech.tokenizers.saved import Saved, source_of

SAMPLE_RATE_HZ = 16_000
FAMILIES = ("hubert", "wav2vec2", "wavlm")
PREPROCESSOR_FILE = "preprocessor_config.json"
CENTROIDS_FILE = "centroids.safetensors"


class HubertTokenizer(NetworkTokenizer):
    """Nearest centroid of a layer's output: 16 kHz audio, as a rule 50 codes a second."""

    kind = "hubert"
    revision = 1
    sample_rate_hz = SAMPLE_RATE_HZ
    # The first convolutions hold 2 KB a sample; this much fits beside them on the smallest GPUs in use.
    device_batch_s = 150.0

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved)
        self.max_window_s: float | None = saved.document["settings"]["max_window_s"]
        self._normalize: bool = saved.document["network"]["normalize"]
        self._layer = _Layer(unpack_model(saved.document["network"]["config"], saved.files[WEIGHTS_FILE]))
        self._centroids_KD = load_tensors(saved.files[CENTROIDS_FILE])["centroids"]
        self.codebook = self._centroids_KD.numpy()
        self.to("cpu")

    @classmethod
    def make(cls, settings: HubertSection, waveforms: Sequence[Float32], device: str = "cpu") -> Saved:
        """Cut the network that `settings` name behind its layer and fit the centroids on clips at 16 kHz.

        Raises ConfigError for a folder or layer that cannot be used, CheckpointError for too few frames.
        """
        assert settings.model is not None
        uri = settings.model
        model = _cut(read_model(uri, "tokenizer.hubert.model", FAMILIES), settings.layer, uri)
        normalize = _normalize(uri, settings)
        config, weights = pack_model(model)
        unfitted = Saved.of(
            {WEIGHTS_FILE: weights, CENTROIDS_FILE: pack_tensors({"centroids": torch.zeros(1, config["hidden_size"])})},
            kind=cls.kind,
            revision=cls.revision,
            sample_rate_hz=SAMPLE_RATE_HZ,
            frame_rate_hz=SAMPLE_RATE_HZ / math.prod(config["conv_stride"]),
            codebook_size=settings.codebook_size,
            settings=settings.deciding() | {"precision": "fp32"},
            network={"config": config, "normalize": normalize, "overlap_s": windows.OVERLAP_S},
        )
        frames_FD = cls(unfitted).to(device)._features(waveforms, settings.max_window_s)
        files = unfitted.files | {CENTROIDS_FILE: pack_tensors({"centroids": _fit(frames_FD, settings)})}
        saved = Saved.of(files, **{name: unfitted.document[name] for name in unfitted.document if name != "digests"})
        return settle_precision(cls, saved, settings.precision, waveforms, device).with_notes(source=source_of(uri))

    def _features(self, waveforms: Sequence[Float32], longest_s: float) -> Float32:
        """Frames (F, D) of all clips; of a clip longer than one window the first window."""
        longest = round(longest_s * SAMPLE_RATE_HZ)
        with torch.no_grad():
            return np.concatenate(
                [self._frames([waveform[:longest]])[0].float().cpu().numpy() for waveform in waveforms]
            )

    def _place(self, device: torch.device) -> None:
        self._layer.to(device, self.dtype)
        self._centroids_KD = self._centroids_KD.to(device)

    def _encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        half_norms_K = (self._centroids_KD**2).sum(1) / 2
        # Least squared distance = greatest x.c - |c|^2 / 2.
        return [
            to_codes((frames_FD.float() @ self._centroids_KD.T - half_norms_K).argmax(1))
            for frames_FD in self._frames(waveforms)
        ]

    def _frames(self, waveforms: Sequence[Float32]) -> list[Tensor]:
        clips = [lengthened(waveform, self._layer.receptive_field) for waveform in waveforms]
        if self._normalize:
            clips = [(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip in clips]
        frames_BFD, frames_B = self._layer(self._padded(clips).to(self.dtype), [len(clip) for clip in clips])
        return [frames_FD[:length] for frames_FD, length in zip(frames_BFD, frames_B, strict=True)]


class _Layer(nn.Module):
    """A network cut behind a layer: samples (B, T) and their lengths -> that layer's output (B, F, D) and lengths."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network
        self._output: Tensor | None = None
        # Behind the last layer wider models have a norm that their other layers' outputs do not go through.
        network.encoder.layers[-1].register_forward_hook(self._keep)
        position = network.encoder.pos_conv_embed.conv
        if parametrize.is_parametrized(position):
            # The same weights, which would otherwise be put together again in every call.
            parametrize.remove_parametrizations(position, "weight")
        self._norm: _NormOverTime | None = None
        first = network.feature_extractor.conv_layers[0]
        if network.config.feat_extract_norm == "group":
            self._norm = first.layer_norm = _NormOverTime(first.layer_norm)
        self._kernels, self._strides = network.config.conv_kernel, network.config.conv_stride
        self.receptive_field = 1
        for kernel, stride in zip(reversed(self._kernels), reversed(self._strides), strict=True):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel

    def forward(self, samples_BT: Tensor, lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Outputs, zero-padded, and how many of them are each clip's."""
        mask_BT = None
        if len(set(lengths)) > 1:
            lengths_B = torch.tensor(lengths, device=samples_BT.device)
            mask_BT = (torch.arange(samples_BT.shape[1], device=samples_BT.device) < lengths_B[:, None]).long()
            if self._norm is not None:
                self._norm.lengths_B = (lengths_B - self._kernels[0]) // self._strides[0] + 1
        self._network(samples_BT, attention_mask=mask_BT)
        if self._norm is not None:
            self._norm.lengths_B = None
        assert self._output is not None
        output, self._output = self._output, None
        return output, [self._num_frames(length) for length in lengths]

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, tuple) else output

    def _num_frames(self, num_samples: int) -> int:
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples


class _NormOverTime(nn.Module):
    """Group norm with a group for each channel, over the true length of each clip (B, C, T) where that is given."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.lengths_B: Tensor | None = None

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Normalised values; what lies behind a clip's length means nothing."""
        if self.lengths_B is None:
            return self.norm(x_BCT)  # type: ignore[no-any-return]
        lengths_B11 = self.lengths_B[:, None, None]
        inside_B1T = torch.arange(x_BCT.shape[2], device=x_BCT.device) < lengths_B11
        values = x_BCT.float().masked_fill(~inside_B1T, 0)
        values = (values - values.sum(2, keepdim=True) / lengths_B11).masked_fill(~inside_B1T, 0)
        variance_BC1 = (values**2).sum(2, keepdim=True) / lengths_B11
        values = values * (variance_BC1 + self.norm.eps).rsqrt()
        return (values * self.norm.weight[:, None] + self.norm.bias[:, None]).to(x_BCT.dtype)


def _cut(model: Any, layer: int, uri: str) -> nn.Module:
    """Drop the layers above `layer`."""
    layers = model.encoder.layers
    if layer > len(layers):
        raise ConfigError(f"tokenizer.hubert.layer: must be one of the {len(layers)} layers of {uri}, found {layer}")
    model.encoder.layers = layers[:layer]
    model.config.num_hidden_layers = layer
    return model  # type: ignore[no-any-return]


def _normalize(uri: str, settings: HubertSection) -> bool:
    """Whether clips are normalised, by the setting or by the folder; and that the folder wants 16 kHz."""
    path = storage.join(uri, PREPROCESSOR_FILE)
    said = storage.read_json(path) if storage.exists(path) else {}
    rate_hz = said.get("sampling_rate", SAMPLE_RATE_HZ)
    if rate_hz != SAMPLE_RATE_HZ:
        raise ConfigError(f"tokenizer.hubert.model: must take audio of {SAMPLE_RATE_HZ} Hz, found {rate_hz} in {path}")
    if settings.normalize is not None:
        return settings.normalize
    if "do_normalize" not in said:
        raise ConfigError(
            f"tokenizer.hubert.normalize: must be given where the model does not say it, found no do_normalize in "
            f"{path}; models that were trained on plain samples want false, most others true"
        )
    return bool(said["do_normalize"])


def _fit(frames_FD: Float32, settings: HubertSection) -> Tensor:
    """Centroids (K, D) by mini-batches, which is how such units are usually fitted."""
    if len(frames_FD) < settings.codebook_size:
        raise CheckpointError(
            f"fitting {settings.codebook_size} units needs at least as many frames, found {len(frames_FD)}; give more "
            "audio or lower tokenizer.hubert.codebook_size"
        )
    # Takes seconds to load, which actors, who never fit, are spared.
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(
        settings.codebook_size,
        batch_size=10_000,
        n_init=3,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=settings.seed,
    ).fit(frames_FD)
    return torch.tensor(fitted.cluster_centers_, dtype=torch.float32)

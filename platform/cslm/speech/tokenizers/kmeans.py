"""k-means units over MFCC or log-mel frames: no training to speak of, thousands of times real time on one core.

Peak normalisation before and mean/variance normalisation after the features take gain and channel out of the units.
Every clip is computed by itself, so its units cannot depend on its neighbours in a batch.
"""

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cslm import storage
from cslm.errors import CheckpointError
from cslm.speech.tokenizer import SETTINGS_FILE, Codes
from cslm.speech.tokenizers import KMeansSection

WEIGHTS_FILE = "model.safetensors"
SAMPLE_RATE_HZ = 16_000

_WINDOW = 400  # samples: 25 ms
_FFT = 512
_PRE_EMPHASIS = 0.97
# About the power of 16-bit rounding noise in one mel band, so that digital silence and a quiet room look alike.
_LOG_FLOOR = 1e-6
# Frames computed at a time: bounds memory on long recordings (8,192 frames are 164 s and 17 MB of spectrum).
_FRAMES_AT_ONCE = 8192


class KMeansTokenizer:
    """Nearest centroid of each frame's normalised features."""

    kind = "kmeans"
    sample_rate_hz = SAMPLE_RATE_HZ
    max_window_s: float | None = None
    batch_s = 120.0  # clips are computed one by one; the batch only bounds what lies on the device

    def __init__(self, settings: KMeansSection, centroids_KD: Tensor) -> None:
        self.settings = settings
        self.frame_rate_hz = settings.frame_rate_hz
        self.codebook_size = len(centroids_KD)
        self.fingerprint = _fingerprint(settings, centroids_KD)
        self._centroids_KD = centroids_KD
        self._half_norms_K = centroids_KD.square().sum(1) / 2
        self._features = Features(settings)

    @classmethod
    def fit(cls, waveforms: Sequence[NDArray[np.float32]], settings: KMeansSection) -> "KMeansTokenizer":
        """Fit centroids on clips at 16 kHz. The same clips in the same order and the same seed give the same units.

        Raises CheckpointError when the clips have fewer frames than there are units to find.
        """
        from sklearn.cluster import KMeans

        features = Features(settings)
        frames_FD = torch.cat([features(torch.from_numpy(waveform)) for waveform in waveforms]).numpy()
        if len(frames_FD) < settings.codebook_size:
            raise CheckpointError(
                f"fitting {settings.codebook_size} units needs at least as many frames, found {len(frames_FD)} in "
                f"{len(waveforms)} clips; give more audio or lower tokenizer.kmeans.codebook_size"
            )
        means = KMeans(settings.codebook_size, n_init=1, max_iter=settings.fit_iterations, random_state=settings.seed)
        means.fit(frames_FD)
        return cls(settings, torch.from_numpy(means.cluster_centers_.astype(np.float32)))

    @classmethod
    def load(cls, path: str) -> "KMeansTokenizer":
        """Read a saved tokenizer. Raises CheckpointError when files are missing or do not belong together."""
        try:
            document = storage.read_json(storage.join(path, SETTINGS_FILE))
            weights = load_tensors(storage.read_bytes(storage.join(path, WEIGHTS_FILE)))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"a tokenizer folder must hold {SETTINGS_FILE} and {WEIGHTS_FILE}, found {path} without: {error}"
            ) from error
        tokenizer = cls(KMeansSection(**document["settings"]), weights["centroids"])
        if tokenizer.fingerprint != document["fingerprint"]:
            raise CheckpointError(
                f"{path}: weights and settings must have the fingerprint {document['fingerprint']}, found "
                f"{tokenizer.fingerprint}; the folder was changed after it was saved: copy or fit it again"
            )
        return tokenizer

    def save(self, path: str) -> None:
        """Write settings and weights to a folder; the settings last, they mark it as whole."""
        weights = {"centroids": self._centroids_KD.cpu().contiguous()}
        storage.write_bytes(storage.join(path, WEIGHTS_FILE), save_tensors(weights))
        document = {
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "sample_rate_hz": self.sample_rate_hz,
            "frame_rate_hz": self.frame_rate_hz,
            "codebook_size": self.codebook_size,
            "settings": self.settings.model_dump(mode="json"),
        }
        storage.write_json(storage.join(path, SETTINGS_FILE), document)

    def to(self, device: str) -> "KMeansTokenizer":
        """Move the weights to a torch device and return self."""
        self._centroids_KD = self._centroids_KD.to(device)
        self._half_norms_K = self._half_norms_K.to(device)
        self._features.to(device)
        return self

    @torch.no_grad()
    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Codes]:
        """Codes (F,) of each 16 kHz waveform (T,), F = max(1, T * frame_rate_hz // 16000)."""
        return [self._encode(waveform) for waveform in waveforms]

    def _encode(self, waveform: NDArray[np.float32]) -> Codes:
        # Samples that lie in shared memory are read-only, which torch does not know: those are copied.
        samples = torch.from_numpy(np.require(waveform, np.float32, "W"))
        frames_FD = self._features(samples.to(self._centroids_KD.device))
        # Least squared distance = greatest x.c - |c|^2 / 2: one product, nothing else of size frames x units.
        codes = [
            torch.addmm(-self._half_norms_K, part, self._centroids_KD.T).argmax(1)
            for part in torch.split(frames_FD, _FRAMES_AT_ONCE)
        ]
        return torch.cat(codes).cpu().numpy().astype(np.uint16)


class Features:
    """16 kHz samples (T,) -> normalised frames (F, D): D = 39 for mfcc, 40 for logmel.

    Frame i is centred on (i + 0.5) / frame_rate_hz seconds.
    """

    def __init__(self, settings: KMeansSection) -> None:
        self._hop = round(SAMPLE_RATE_HZ / settings.frame_rate_hz)
        self._window = torch.hann_window(_WINDOW)
        self._mel_BM = mel_filters(40)
        self._dct_MC = dct_matrix(40, 13) if settings.features == "mfcc" else None

    def to(self, device: str) -> None:
        """Move the constant matrices to a torch device."""
        self._window, self._mel_BM = self._window.to(device), self._mel_BM.to(device)
        if self._dct_MC is not None:
            self._dct_MC = self._dct_MC.to(device)

    def __call__(self, samples: Tensor) -> Tensor:
        """Features of one clip."""
        samples = samples / samples.abs().max().clamp_min(1e-5)
        samples = torch.cat((samples[:1], samples[1:] - _PRE_EMPHASIS * samples[:-1]))
        num_frames = max(1, len(samples) // self._hop)
        before = max(0, (_WINDOW - self._hop) // 2)
        after = max(0, (num_frames - 1) * self._hop + _WINDOW - before - len(samples))
        windows_FW = torch.nn.functional.pad(samples, (before, after)).unfold(0, _WINDOW, self._hop)[:num_frames]
        mel_FM = torch.cat([self._log_mel(part) for part in torch.split(windows_FW, _FRAMES_AT_ONCE)])
        if self._dct_MC is None:
            return _normalise(mel_FM)
        cepstra_FC = mel_FM @ self._dct_MC
        delta_FC = _slope(cepstra_FC)
        return _normalise(torch.cat((cepstra_FC, delta_FC, _slope(delta_FC)), dim=1))

    def _log_mel(self, windows_FW: Tensor) -> Tensor:
        spectrum_FB = torch.fft.rfft(windows_FW * self._window, n=_FFT)
        power_FB = spectrum_FB.real.square() + spectrum_FB.imag.square()
        mel_FM: Tensor = power_FB @ self._mel_BM + _LOG_FLOOR
        return mel_FM.log()


def mel_filters(num_mels: int) -> Tensor:
    """Triangles (257, num_mels) spaced evenly on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz."""
    top_mel = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, top_mel, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins_hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


def dct_matrix(num_mels: int, num_cepstra: int) -> Tensor:
    """Orthonormal DCT-II (num_mels, num_cepstra)."""
    mel = torch.arange(num_mels, dtype=torch.float64)[:, None]
    order = torch.arange(num_cepstra, dtype=torch.float64)
    matrix = torch.cos(math.pi / num_mels * (mel + 0.5) * order) * math.sqrt(2 / num_mels)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.float()


def _slope(values_FC: Tensor) -> Tensor:
    """Least-squares slope over five frames; the edge frames are repeated outwards."""
    padded = torch.cat((values_FC[:1], values_FC[:1], values_FC, values_FC[-1:], values_FC[-1:]))
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


def _normalise(values_FD: Tensor) -> Tensor:
    """Zero mean and unit variance of each dimension over the clip."""
    centred = values_FD - values_FD.mean(0)
    return centred / (centred.square().mean(0) + 1e-4).sqrt()


def _fingerprint(settings: KMeansSection, centroids_KD: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(centroids_KD.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

"""k-means units over MFCC or log-mel frames: no training to speak of, thousands of times real time on one core.

Peak normalisation before and mean/variance normalisation after the features take gain and channel out of the units.
Every clip is computed by itself, so its units cannot depend on its neighbours in a batch. The arithmetic is written
once, against names that numpy and torch share: on a CPU it runs without torch, which takes longer to load than an
hour of audio to encode, and on a GPU with it.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from cslm import storage
from cslm.errors import CheckpointError
from cslm.speech.clustering import fit_centroids
from cslm.speech.tokenizer import SETTINGS_FILE, Codes
from cslm.speech.tokenizers import KMeansSection

WEIGHTS_FILE = "model.safetensors"
SAMPLE_RATE_HZ = 16_000

Float32 = NDArray[np.float32]

_WINDOW = 400  # samples: 25 ms
_FFT = 512
_NUM_MELS = 40
_NUM_CEPSTRA = 13
_PRE_EMPHASIS = 0.97
# About the power of 16-bit rounding noise in one mel band, so that digital silence and a quiet room look alike.
_LOG_FLOOR = 1e-6
# Goes up when the same audio gets other features: units made before and after must not meet.
_FEATURES_VERSION = 2
# Frames computed at a time: bounds memory on long recordings (8,192 frames are 164 s and 34 MB of spectrum).
_FRAMES_AT_ONCE = 8192


class KMeansTokenizer:
    """Nearest centroid of each frame's normalised features."""

    kind = "kmeans"
    sample_rate_hz = SAMPLE_RATE_HZ
    max_window_s: float | None = None
    batch_s = 120.0  # clips are computed one by one; the batch only bounds what lies on the device

    def __init__(self, settings: KMeansSection, centroids_KD: Float32) -> None:
        self.settings = settings
        self.frame_rate_hz = settings.frame_rate_hz
        self.codebook_size = len(centroids_KD)
        self.fingerprint = _fingerprint(settings, centroids_KD)
        self.codebook = centroids_KD
        self.to("cpu")

    @classmethod
    def fit(cls, waveforms: Sequence[Float32], settings: KMeansSection) -> "KMeansTokenizer":
        """Fit centroids on clips at 16 kHz. The same clips in the same order and the same seed give the same units.

        Raises CheckpointError when the clips have fewer frames than there are units to find.
        """
        features = Features(settings)
        frames = [features(waveform) for waveform in waveforms]
        num_frames = sum(map(len, frames))
        if num_frames < settings.codebook_size:
            raise CheckpointError(
                f"fitting {settings.codebook_size} units needs at least as many frames, found {num_frames} in "
                f"{len(waveforms)} clips; give more audio or lower tokenizer.kmeans.codebook_size"
            )
        return cls(
            settings,
            fit_centroids(
                np.concatenate(frames), settings.codebook_size, seed=settings.seed, iterations=settings.fit_iterations
            ),
        )

    @classmethod
    def make(cls, settings: KMeansSection, waveforms: Sequence[Float32], device: str = "cpu") -> "KMeansTokenizer":
        """As `fit`; always on the CPU, so that a cluster with GPUs comes to the same units as one without."""
        return cls.fit(waveforms, settings)

    @classmethod
    def load(cls, path: str) -> "KMeansTokenizer":
        """Read a saved tokenizer. Raises CheckpointError when files are missing or do not belong together."""
        try:
            document = storage.read_json(storage.join(path, SETTINGS_FILE))
            weights = load_arrays(storage.read_bytes(storage.join(path, WEIGHTS_FILE)))
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
        storage.write_bytes(storage.join(path, WEIGHTS_FILE), save_arrays({"centroids": self.codebook}))
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
        """Compute on a torch device, or with numpy on `cpu`; returns self."""
        self._features = Features(self.settings, device)
        self._weights_DK = _on_device(np.ascontiguousarray(self.codebook.T), device)
        self._half_norms_K = _on_device((self.codebook**2).sum(1) / 2, device)
        return self

    def encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        """Codes (F,) of each 16 kHz waveform (T,), F = max(1, T * frame_rate_hz // 16000)."""
        return [self._encode(waveform) for waveform in waveforms]

    def _encode(self, waveform: Float32) -> Codes:
        frames_FD = self._features(waveform)
        codes = []
        for first in range(0, len(frames_FD), _FRAMES_AT_ONCE):
            # Least squared distance = greatest x.c - |c|^2 / 2: one product, nothing else of size frames x units.
            scores_FK = frames_FD[first : first + _FRAMES_AT_ONCE] @ self._weights_DK
            scores_FK -= self._half_norms_K
            nearest = scores_FK.argmax(1)
            codes.append(nearest if isinstance(nearest, np.ndarray) else nearest.cpu().numpy())
        return np.concatenate(codes).astype(np.uint16)


class Features:
    """16 kHz samples (T,) -> normalised frames (F, D) on `device`: D = 39 for mfcc, 40 for logmel.

    Frame i is centred on (i + 0.5) / frame_rate_hz seconds. Where frames are so far apart that windows would leave gaps
    between them, a frame is the mean of several windows.
    """

    def __init__(self, settings: KMeansSection, device: str = "cpu") -> None:
        self._device = device
        spacing = round(SAMPLE_RATE_HZ / settings.frame_rate_hz)
        self._windows_a_frame = next(n for n in range(1, spacing + 1) if spacing % n == 0 and spacing // n <= _WINDOW)
        self._hop = spacing // self._windows_a_frame
        self._window = _on_device(np.hanning(_WINDOW + 1)[:-1], device)
        self._mel_BM = _on_device(mel_filters(), device)
        self._dct_MC = _on_device(dct_matrix(), device) if settings.features == "mfcc" else None
        self._numpy_or_torch = np if device == "cpu" else importlib.import_module("torch")

    def __call__(self, waveform: Float32) -> Any:
        """Features of one clip: a numpy array on `cpu`, else a torch tensor."""
        xp = self._numpy_or_torch
        samples = _on_device(waveform, self._device)
        samples = samples / (abs(samples).max() + 1e-8)
        samples = xp.concatenate((samples[:1], samples[1:] - _PRE_EMPHASIS * samples[:-1]))
        num_frames = max(1, len(samples) // (self._hop * self._windows_a_frame))
        num_windows = num_frames * self._windows_a_frame
        before = (_WINDOW - self._hop) // 2
        after = max(0, (num_windows - 1) * self._hop + _WINDOW - before - len(samples))
        silence = xp.zeros_like(samples[:1]).repeat(max(before, after))
        samples = xp.concatenate((silence[:before], samples, silence[:after]))
        mel_FM = xp.concatenate(
            [
                self._log_mel(samples, first, min(first + _FRAMES_AT_ONCE, num_windows))
                for first in range(0, num_windows, _FRAMES_AT_ONCE)
            ]
        )
        mel_FM = mel_FM.reshape(num_frames, self._windows_a_frame, -1).mean(1)
        if self._dct_MC is None:
            return _normalise(mel_FM)
        cepstra_FC = mel_FM @ self._dct_MC
        delta_FC = _slope(xp, cepstra_FC)
        return _normalise(xp.concatenate((cepstra_FC, delta_FC, _slope(xp, delta_FC)), 1))

    def _log_mel(self, samples: Any, first: int, end: int) -> Any:
        xp = self._numpy_or_torch
        part = samples[first * self._hop : (end - 1) * self._hop + _WINDOW]
        if xp is np:
            windows_FW = np.lib.stride_tricks.sliding_window_view(part, _WINDOW)[:: self._hop]
        else:
            windows_FW = part.unfold(0, _WINDOW, self._hop)
        spectrum_FB = xp.fft.rfft(windows_FW * self._window, _FFT)
        power_FB = spectrum_FB.real**2 + spectrum_FB.imag**2
        return xp.log(power_FB @ self._mel_BM + _LOG_FLOOR)


def mel_filters() -> Float32:
    """Triangles (257, 40) spaced evenly on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz."""
    top_mel = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, _NUM_MELS + 2) / 2595) - 1)
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def dct_matrix() -> Float32:
    """Orthonormal DCT-II (40, 13)."""
    mel = np.arange(_NUM_MELS)[:, None]
    matrix: NDArray[np.float64] = np.cos(math.pi / _NUM_MELS * (mel + 0.5) * np.arange(_NUM_CEPSTRA)) * math.sqrt(
        2 / _NUM_MELS
    )
    matrix[:, 0] /= math.sqrt(2)
    return matrix.astype(np.float32)


def _slope(xp: Any, values_FC: Any) -> Any:
    """Least-squares slope over five frames; the edge frames are repeated outwards."""
    first, last = values_FC[:1], values_FC[-1:]
    padded = xp.concatenate((first, first, values_FC, last, last))
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


def _normalise(values_FD: Any) -> Any:
    """Zero mean and unit variance of each dimension over the clip."""
    centred = values_FD - values_FD.mean(0)
    return centred / ((centred**2).mean(0) + 1e-4) ** 0.5


def _on_device(values: NDArray[Any], device: str) -> Any:
    if device == "cpu":
        return values.astype(np.float32, copy=False)
    import torch

    # Samples may lie in shared memory, which is read-only; torch does not know such arrays.
    return torch.tensor(values, dtype=torch.float32, device=device)


def _fingerprint(settings: KMeansSection, centroids_KD: Float32) -> str:
    facts = {"features": _FEATURES_VERSION, "settings": settings.model_dump(mode="json")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(centroids_KD, "<f4").tobytes())
    return digest.hexdigest()[:16]

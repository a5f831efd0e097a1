"""What tokenizers that are neural networks share: device, precision, batching, and reading Hugging Face folders.

On a CPU every clip is computed by itself: a batch of clips is no quicker there and padding is lost time, and codes that
cannot depend on neighbours need no proof. On any other device clips are padded to a batch, and the kinds mask what is
padding at every layer that looks to the side.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig

from cslm import storage
from cslm.errors import CheckpointError, ConfigError
from cslm.speech.tokenizers.saved import Saved

Float32 = NDArray[np.float32]
Codes = NDArray[np.uint16]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# `precision: auto` takes bf16 when so large a share of the codes stays the same.
SAME_CODES = 0.999
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
# Of a config.json, what does not decide what a network computes.
_VOLATILE = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")


class NetworkTokenizer(ABC):
    """Base of the kinds whose codes a network computes. A subclass gives `kind`, the rates, and `_encode`."""

    kind: str
    revision: int  # goes up when the same weights and settings give other codes
    sample_rate_hz: int
    max_window_s: float | None = None
    frame_rate_hz: float
    codebook_size: int
    codebook: Float32 | None
    # Audio in one batch of a GPU, padding counted; on a CPU it only bounds what one call holds.
    device_batch_s = 300.0

    def __init__(self, saved: Saved) -> None:
        self.fingerprint: str = saved.document["fingerprint"]
        self.frame_rate_hz = saved.document["frame_rate_hz"]
        self.codebook_size = saved.document["codebook_size"]
        self.dtype = DTYPES[saved.document["settings"]["precision"]]
        self.device = "cpu"

    @classmethod
    def load(cls, path: str) -> Self:
        """Read a saved tokenizer. Raises CheckpointError when files are missing or do not belong together."""
        return cls(Saved.read(path, cls.kind, cls.revision))

    @property
    def batch_s(self) -> float:
        """Seconds of audio in one `encode` call at which this device is best used."""
        return 30.0 if self.device == "cpu" else self.device_batch_s

    def to(self, device: str) -> Self:
        """Move the weights to a torch device and return self."""
        self.device = device
        if torch.device(device).type == "cuda":
            # TF32 would give convolutions other codes than on a CPU; what is to be quick has `precision`.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self._place(torch.device(device))
        return self

    def encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        """Codes (F,) of each waveform (T,) at `sample_rate_hz`."""
        if not waveforms:
            return []
        # Not inference_mode: values that modules keep from a first call under it break later calls outside of it.
        with torch.no_grad():
            if self.device == "cpu":
                return [self._encode([waveform])[0] for waveform in waveforms]
            return self._encode(waveforms)

    @abstractmethod
    def _place(self, device: torch.device) -> None:
        """Put the network on a device."""

    @abstractmethod
    def _encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        """Codes of one batch; those of a clip do not depend on the others."""

    def _padded(self, waveforms: Sequence[Float32], multiple: int = 1) -> Tensor:
        """Clips side by side (B, T) on the device, zeros behind the shorter ones."""
        longest = max(map(len, waveforms))
        samples_BT = torch.zeros(len(waveforms), -(-longest // multiple) * multiple)
        for row, waveform in zip(samples_BT, waveforms, strict=True):
            # A copy: samples may lie in shared memory, which is read-only; torch does not know such arrays.
            row[: len(waveform)] = torch.tensor(waveform)
        if torch.device(self.device).type == "cuda":
            return samples_BT.pin_memory().to(self.device, non_blocking=True)
        return samples_BT.to(self.device)


def to_codes(codes_F: Tensor) -> Codes:
    """A tensor of codes as what is stored."""
    return codes_F.cpu().numpy().astype(np.uint16)


def lengthened(waveform: Float32, samples: int) -> Float32:
    """A clip too short for a single frame with silence behind it."""
    return waveform if len(waveform) >= samples else np.pad(waveform, (0, samples - len(waveform)))


def settle_precision(
    build: Callable[[Saved], NetworkTokenizer], saved: Saved, wanted: str, waveforms: Sequence[Float32], device: str
) -> Saved:
    """The tokenizer in the precision asked for; `auto` becomes bf16 or fp32 by how many codes of `waveforms` stay."""
    if wanted != "auto":
        return saved.with_settings(precision=wanted)
    full, reduced = (saved.with_settings(precision=precision) for precision in ("fp32", "bf16"))
    expected, found = (
        np.concatenate([tokenizer.encode([waveform])[0] for waveform in waveforms])
        for tokenizer in (build(full).to(device), build(reduced).to(device))
    )
    share = float((expected == found).mean())
    chosen = reduced if share >= SAME_CODES else full
    return chosen.with_notes(precision_check={"codes": len(expected), "same_in_bf16": round(share, 5)})


def read_model(path: str, setting_name: str, families: Sequence[str]) -> nn.Module:
    """A Hugging Face folder's model in fp32.

    Raises ConfigError when the folder is not one of the model families, CheckpointError when weights are missing in it.
    """
    if not storage.exists(storage.join(path, CONFIG_FILE)):
        raise ConfigError(
            f"{setting_name}: must be a Hugging Face folder with {CONFIG_FILE} and weights, found {path} without "
            f"{CONFIG_FILE}; download the model to a folder that the workers can read"
        )
    family = storage.read_json(storage.join(path, CONFIG_FILE)).get("model_type")
    if family not in families:
        raise ConfigError(
            f"{setting_name}: must hold a model of type {' or '.join(families)}, found {family!r} in {path}"
        )
    quiet()
    with storage.local_folder(path) as folder:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        try:
            model, loading = MODEL_MAPPING[type(config)].from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{setting_name}: the weights in {path} must load into the network that its {CONFIG_FILE} describes, "
                f"found: {error}; download the folder again"
            ) from error
    check_loading(path, loading)
    return model.eval()  # type: ignore[no-any-return]


def pack_model(model: Any) -> tuple[dict[str, Any], bytes]:
    """What decides a model's architecture, and its weights as safetensors under Hugging Face's names for them."""
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="1TB")
        config = storage.read_json(storage.join(folder, CONFIG_FILE))
        weights = storage.read_bytes(storage.join(folder, WEIGHTS_FILE))
    return {name: value for name, value in config.items() if name not in _VOLATILE}, weights


def unpack_model(config: Mapping[str, Any], weights: bytes) -> Any:
    """The model that `pack_model` packed, in fp32."""
    quiet()
    architecture = AutoConfig.for_model(**config)
    model, loading = MODEL_MAPPING[type(architecture)].from_pretrained(
        None, config=architecture, state_dict=load_tensors(weights), output_loading_info=True, dtype=torch.float32
    )
    check_loading(WEIGHTS_FILE, loading)
    return model.eval()


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as a safetensors file."""
    return save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})


def check_loading(path: str, loading: Mapping[str, Any]) -> None:
    """Raise CheckpointError when weights were missing in `path` or of other shapes than the network's."""
    # The vector for masked frames is of use in pre-training only, and many published folders lack it.
    missing = sorted(name for name in loading["missing_keys"] if not name.endswith("masked_spec_embed"))
    if missing or loading["mismatched_keys"]:
        found = missing or sorted(map(str, loading["mismatched_keys"]))
        raise CheckpointError(
            f"{path}: must hold every weight of its network, found {len(found)} missing or of another shape, "
            f"{found[0]} the first; download the folder again"
        )


def quiet() -> None:
    """Keep transformers from telling how it loads."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()

"""CosyVoice's S3 tokenizers (Du et al. 2024, arXiv:2407.05407 and 2412.10117) through the package `s3tokenizer`.

The package is used for its networks and for reading the published ONNX files. Not for choosing between them: it goes
by the name in a path, and a file of 25 Hz under another name gives codes of 50 Hz without a word. Here the variant is
a setting, and what the weights say of themselves must agree with it. Nor for loading audio, of which it keeps the first
channel, nor for long audio, which `speech.windows` cuts for all tokenizers alike.
"""

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from cslm import storage
from cslm.errors import CheckpointError, MissingDependency
from cslm.speech import windows
from cslm.speech.tokenizers import S3Section
from cslm.speech.tokenizers.networks import (
    WEIGHTS_FILE,
    Codes,
    Float32,
    NetworkTokenizer,
    lengthened,
    pack_tensors,
    settle_precision,
    to_codes,
)
from cslm.speech.tokenizers.saved import Saved, source_of

SAMPLE_RATE_HZ = 16_000
_MEL_HOP = 160
_HEAD_SIZE = 64  # of every published variant; the rotary positions of v2 and v3 know no other
# What the positions of v1 were trained for, and the package's own limit for the others.
_LONGEST_S = 30.0
_FSQ_LEVELS, _FSQ_SIZE = 3, 8


@dataclass(frozen=True)
class Variant:
    """What tells a variant's weights from the others'."""

    frame_rate_hz: float
    num_layers: int
    codebook_size: int
    first_stride: int  # of the first convolution: it is in ONNX files, not in state dicts
    finite: bool  # finite scalar quantization instead of a codebook

    def __str__(self) -> str:
        quantizer = "finite scalar quantization" if self.finite else "a codebook"
        return f"{self.num_layers} layers, {quantizer} of {self.codebook_size} codes, first stride {self.first_stride}"


VARIANTS = {
    "speech_tokenizer_v1": Variant(50.0, 6, 4096, 1, False),
    "speech_tokenizer_v1_25hz": Variant(25.0, 6, 4096, 2, False),
    "speech_tokenizer_v2_25hz": Variant(25.0, 6, 6561, 2, True),
    "speech_tokenizer_v3_25hz": Variant(25.0, 12, 6561, 2, True),
}


class S3Tokenizer(NetworkTokenizer):
    """Codes of a speech recogniser's encoder with a quantizer inside: 16 kHz audio, 25 or 50 codes a second."""

    kind = "s3"
    revision = 1
    sample_rate_hz = SAMPLE_RATE_HZ
    max_window_s: float | None = _LONGEST_S

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved)
        variant, state = saved.document["settings"]["variant"], load_tensors(saved.files[WEIGHTS_FILE])
        self._network = _network(variant, state)
        self._network.load_state_dict(state)
        self._num_mels: int = state["encoder.conv1.weight"].shape[1]
        self._hop = round(SAMPLE_RATE_HZ / self.frame_rate_hz)
        self.codebook = _fsq_codebook() if VARIANTS[variant].finite else state["quantizer._codebook.embed"].numpy()
        self.to("cpu")

    @classmethod
    def make(cls, settings: S3Section, waveforms: Sequence[Float32] = (), device: str = "cpu") -> Saved:
        """Convert the weights that `settings` name; `waveforms` are listened to for `precision: auto` only.

        Raises CheckpointError when the file is none of a tokenizer's, or not of the variant that is asked for.
        """
        assert settings.weights is not None
        assert settings.variant is not None
        uri = settings.weights
        saved = cls.pack(settings.variant, read_weights(uri, settings.variant))
        return settle_precision(cls, saved, settings.precision, waveforms, device).with_notes(source=source_of(uri))

    @classmethod
    def pack(cls, variant: str, state: Mapping[str, Tensor]) -> Saved:
        """A tokenizer of a variant's state dict, in fp32."""
        return Saved.of(
            {WEIGHTS_FILE: pack_tensors(state)},
            kind=cls.kind,
            revision=cls.revision,
            sample_rate_hz=SAMPLE_RATE_HZ,
            frame_rate_hz=VARIANTS[variant].frame_rate_hz,
            codebook_size=VARIANTS[variant].codebook_size,
            settings={"variant": variant, "precision": "fp32"},
            network={"longest_s": _LONGEST_S, "overlap_s": windows.OVERLAP_S},
        )

    def _place(self, device: torch.device) -> None:
        # The quantizer stays in fp32: distances in less would move codes that the encoder left where they are.
        self._network.encoder.to(device, self.dtype)
        self._network.quantizer.to(device)

    def _encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        from s3tokenizer import log_mel_spectrogram

        # Each clip's spectrogram is its own: it ends 80 dB below the loudest point of the clip.
        mels = [
            log_mel_spectrogram(self._padded([lengthened(waveform, self._hop)])[0], self._num_mels)
            for waveform in waveforms
        ]
        lengths_B = torch.tensor([mel.shape[1] for mel in mels], device=self.device)
        mel_BMT = torch.zeros(len(mels), self._num_mels, int(lengths_B.max()), device=self.device)
        for row, mel in zip(mel_BMT, mels, strict=True):
            row[:, : mel.shape[1]] = mel
        hidden_BFD, frames_B = self._network.encoder(mel_BMT.to(self.dtype), lengths_B)
        codes_BF = self._network.quantizer.encode(hidden_BFD.float())
        return [to_codes(codes[:frames]) for codes, frames in zip(codes_BF, frames_B.tolist(), strict=True)]


def read_weights(uri: str, variant: str) -> dict[str, Tensor]:
    """The state dict in a published ONNX file, a `.pt` or a `.safetensors`, told apart by content, in fp32.

    Raises CheckpointError when the weights are not those of `variant`. A state dict of v1 does not say whether it is
    that of 25 or of 50 Hz; for it the variant is believed.
    """
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        needed = "must be the published .onnx, or its state dict as .pt or .safetensors"
        raise CheckpointError(f"tokenizer.s3.weights: {needed}, found no file at {uri}") from error
    package = _package()
    try:
        if data[:4] == b"PK\x03\x04":
            state, stride = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), None
        elif data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
            state, stride = load_tensors(data), None
        else:
            state, stride = _from_onnx(data, uri, variant, package)
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _unreadable(uri, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unreadable(uri, "something other than tensors by name")
    _check_variant(uri, variant, _facts(state, stride))
    state = {name: tensor.float() for name, tensor in state.items()}
    _check_shapes(uri, variant, state)
    return state


def _package() -> Any:
    try:
        import s3tokenizer
    except ImportError as error:
        raise MissingDependency("s3tokenizer", "s3tokenizer", "tokenizer.kind s3") from error
    return s3tokenizer


def _network(variant: str, state: Mapping[str, Tensor]) -> Any:
    """The network of a variant, of the sizes that the weights have."""
    _package()
    from s3tokenizer.model import ModelConfig, S3Tokenizer
    from s3tokenizer.model_v2 import ModelConfig as ModelConfigV2
    from s3tokenizer.model_v2 import S3TokenizerV2
    from s3tokenizer.model_v3 import ModelConfigV3, S3TokenizerV3

    width, num_mels, _ = state["encoder.conv1.weight"].shape
    sizes = {
        "n_mels": num_mels,
        "n_audio_state": width,
        "n_audio_head": max(1, width // _HEAD_SIZE),
        "n_audio_layer": _num_layers(state),
        "n_codebook_size": VARIANTS[variant].codebook_size,
        "use_sdpa": True,
    }
    if "encoder.positional_embedding" in state:
        sizes["n_audio_ctx"] = len(state["encoder.positional_embedding"])
    if not VARIANTS[variant].finite:
        return S3Tokenizer(variant, ModelConfig(**sizes)).eval()
    if variant == "speech_tokenizer_v2_25hz":
        return S3TokenizerV2(variant, ModelConfigV2(**sizes)).eval()
    return S3TokenizerV3(variant, ModelConfigV3(**sizes)).eval()


def _from_onnx(data: bytes, uri: str, variant: str, package: Any) -> tuple[dict[str, Tensor], int | None]:
    """State dict and first stride of a published ONNX file, checked against the variant before it is converted."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_from_string(data).graph
    except DecodeError as error:
        raise _unreadable(uri, error) from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    names = [node.name for node in graph.node] + list(shapes)
    convolutions = [node for node in graph.node if node.op_type == "Conv" and len(shapes.get(node.input[1], ())) == 3]
    strides = [list(entry.ints) for node in convolutions[:1] for entry in node.attribute if entry.name == "strides"]
    stride = strides[0][0] if strides else None
    finite = any("project_in" in name for name in names)
    layers = set(re.findall(r"\bblocks\.(\d+)", " ".join(names)))
    # Before conversion, which for the wrong variant fails somewhere inside.
    _check_variant(uri, variant, {"num_layers": len(layers), "finite": finite, "first_stride": stride})
    convert = package.onnx2torch_v3 if variant == "speech_tokenizer_v3_25hz" else package.onnx2torch
    try:
        return convert(io.BytesIO(data)), stride
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(uri, f"a graph that s3tokenizer cannot convert ({type(error).__name__}: {error})") from error


def _facts(state: Mapping[str, Any], stride: int | None) -> dict[str, Any]:
    """What weights say of their variant, by the names in `Variant`; nothing that they do not say."""
    facts: dict[str, Any] = {"num_layers": _num_layers(state), "first_stride": stride}
    facts["finite"] = "quantizer._codebook.project_down.weight" in state
    if not facts["finite"] and "quantizer._codebook.embed" in state:
        facts["codebook_size"] = len(state["quantizer._codebook.embed"])
    return facts


def _num_layers(state: Mapping[str, Any]) -> int:
    return len({name.split(".")[2] for name in state if name.startswith("encoder.blocks.")})


def _check_variant(uri: str, variant: str, facts: Mapping[str, Any]) -> None:
    facts = {name: value for name, value in facts.items() if value is not None}
    like = [name for name, one in VARIANTS.items() if all(getattr(one, fact) == value for fact, value in facts.items())]
    if variant not in like:
        found = ", ".join(f"{name} {value}" for name, value in facts.items())
        remedy = f"they are those of {' or '.join(like)}: set it" if like else "they are of no variant that is known"
        raise CheckpointError(
            f"tokenizer.s3.variant: weights of {variant} have {VARIANTS[variant]}, found {found} in {uri}; {remedy}"
        )


def _check_shapes(uri: str, variant: str, state: dict[str, Tensor]) -> None:
    """Make sure that the weights fill the network.

    v3's converter may leave out the norms' biases and keep what the network has no place for; its loader takes both.
    """
    if "encoder.conv1.weight" not in state or state["encoder.conv1.weight"].ndim != 3:
        raise _unreadable(uri, "weights without encoder.conv1.weight")
    expected = _network(variant, state).state_dict()
    if variant == "speech_tokenizer_v3_25hz":
        for name in expected.keys() - state.keys():
            if name.endswith("_ln.bias"):
                state[name] = torch.zeros_like(expected[name])
        for name in state.keys() - expected.keys():
            del state[name]
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    reshaped = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    if missing or unknown or reshaped:
        raise CheckpointError(
            f"{uri}: must hold exactly the weights of {variant}, found {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}, {len(reshaped)} of another shape {sorted(reshaped)[:2]}; "
            "is it the published file of this variant, and whole?"
        )


def _unreadable(uri: str, found: Any) -> CheckpointError:
    needed = "must be the published .onnx, or its state dict as .pt or .safetensors"
    return CheckpointError(f"tokenizer.s3.weights: {needed}, found {found} in {uri}; download the file again")


def _fsq_codebook() -> Float32:
    """What the codes of finite scalar quantization stand for: their digits to base 3, lowest first, in -1, 0 and 1."""
    codes = np.arange(_FSQ_LEVELS**_FSQ_SIZE)[:, None]
    return (codes // _FSQ_LEVELS ** np.arange(_FSQ_SIZE) % _FSQ_LEVELS - 1).astype(np.float32)

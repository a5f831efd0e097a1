"""One module for each kind of tokenizer.

Their settings are declared here, because a driver reads them without loading what the tokenizers are made of.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator

from cslm import storage
from cslm.config import Section, setting

# auto: see `networks.settle_precision`
Precision = Literal["auto", "fp32", "bf16", "fp16"]
_PRECISION = "of the network, part of the fingerprint; auto: bf16 if 999 of 1,000 codes of the corpus stay the same"


class KindSection(Section):
    """Settings of one kind of tokenizer, as the job that makes one reads them."""

    # Name of the setting that says which file or folder the weights are in, and all that making one cannot do without.
    source_setting: ClassVar[str | None] = None
    needed: ClassVar[tuple[str, ...]] = ()
    # Seconds of corpus on which `precision: auto` is decided where nothing is fitted.
    precision_audio_s: ClassVar[float] = 60.0

    @property
    def source(self) -> str | None:
        """The file or folder that the weights come from."""
        return getattr(self, self.source_setting) if self.source_setting else None

    @property
    def making_audio_s(self) -> float:
        """Seconds of corpus that making the tokenizer needs."""
        return self.precision_audio_s if getattr(self, "precision", None) == "auto" else 0.0

    def located(self) -> Self:
        """The same with an absolute source, for workers, which do not know where relative paths hang from."""
        if self.source_setting is None or self.source is None:
            return self
        return self.model_copy(update={self.source_setting: storage.absolute(self.source)})

    def deciding(self) -> dict[str, Any]:
        """What decides the codes, as a saved tokenizer keeps it: not where the weights came from."""
        return self.model_dump(mode="json", exclude={self.source_setting} if self.source_setting else None)

    def agrees(self, kept: dict[str, Any]) -> bool:
        """Whether a saved tokenizer's settings are these; any precision is when it is `auto`."""
        wanted = {name: value for name, value in self.deciding().items() if (name, value) != ("precision", "auto")}
        return wanted == {name: value for name, value in kept.items() if name in wanted}


class KMeansSection(KindSection):
    """Settings that a k-means tokenizer is fitted with; a saved one keeps its own."""

    features: Literal["mfcc", "logmel"] = setting("mfcc", "mfcc: 13 cepstra with deltas and delta-deltas; logmel: 40")
    codebook_size: int = setting(500, "number of units", ge=2, le=65536)
    frame_rate_hz: float = setting(50.0, "codes a second; 16,000 must be a multiple", unit="Hz", gt=0, le=200)
    seed: int = setting(0, "of the sample and of the first centroids", ge=0)
    fit_audio_s: float = setting(720.0, "audio to fit on, spread evenly over the languages", unit="s", gt=0)
    fit_iterations: int = setting(20, "Lloyd iterations at most", ge=1)

    @property
    def making_audio_s(self) -> float:
        """Seconds of corpus that the centroids are fitted on."""
        return self.fit_audio_s

    @field_validator("frame_rate_hz")
    @classmethod
    def _whole_samples(cls, rate_hz: float) -> float:
        if (16_000 / rate_hz) % 1:
            raise ValueError(f"frames must be a whole number of samples of 16 kHz apart, found {16_000 / rate_hz:.3f}")
        return rate_hz


class S3Section(KindSection):
    """Which of CosyVoice's S3 tokenizers."""

    source_setting: ClassVar[str | None] = "weights"
    needed: ClassVar[tuple[str, ...]] = ("weights", "variant")

    weights: str | None = setting(None, "the published .onnx, or a state dict of it as .pt or .safetensors")
    variant: (
        Literal[
            "speech_tokenizer_v1", "speech_tokenizer_v1_25hz", "speech_tokenizer_v2_25hz", "speech_tokenizer_v3_25hz"
        ]
        | None
    ) = setting(None, "which network the weights are of; v1 without a rate is that of 50 Hz")
    precision: Precision = setting("fp32", _PRECISION)


class HubertSection(KindSection):
    """Which HuBERT-style network, and how its units are fitted."""

    source_setting: ClassVar[str | None] = "model"
    needed: ClassVar[tuple[str, ...]] = ("model",)

    model: str | None = setting(None, "Hugging Face folder of a HuBERT, wav2vec 2.0 or WavLM model")
    layer: int = setting(9, "whose output is clustered; 1 is the first", ge=1)
    codebook_size: int = setting(500, "number of units", ge=2, le=65536)
    normalize: bool | None = setting(
        None, "zero mean and unit variance of each clip; as preprocessor_config.json says when not given"
    )
    max_window_s: float = setting(30.0, "longer recordings are cut into overlapping windows", unit="s", ge=5)
    seed: int = setting(0, "of the sample and of the first centroids", ge=0)
    fit_audio_s: float = setting(1800.0, "audio to fit on, spread evenly over the languages", unit="s", gt=0)
    precision: Precision = setting("fp32", _PRECISION)

    @property
    def making_audio_s(self) -> float:
        """Seconds of corpus that the centroids are fitted on."""
        return self.fit_audio_s


class MimiSection(KindSection):
    """Which Mimi codec."""

    source_setting: ClassVar[str | None] = "model"
    needed: ClassVar[tuple[str, ...]] = ("model",)

    model: str | None = setting(None, "Hugging Face folder of a Mimi model")
    precision: Precision = setting("fp32", _PRECISION)


class LearnedSection(KindSection):
    """A tokenizer that jobs/fit_tokenizer.py learned; it has no settings but its folder, which `path` names."""

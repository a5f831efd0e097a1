"""The semantic codebook of Mimi (Défossez et al. 2024, arXiv:2410.00037): 24 kHz audio, 12.5 codes a second.

Mimi looks back only. A clip is filled up with silence to whole frames, as in the codec's own code, after which no layer
adds padding of its own: what follows a clip in a batch cannot reach its codes, and a long recording is computed piece
by piece with the state carried over, in bounded memory and with the codes of the whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cslm.errors import ConfigError
from cslm.speech.tokenizers import MimiSection
from cslm.speech.tokenizers.networks import (
    WEIGHTS_FILE,
    Codes,
    Float32,
    NetworkTokenizer,
    pack_model,
    read_model,
    settle_precision,
    to_codes,
    unpack_model,
)
from cslm.speech.tokenizers.saved import Saved, source_of

SAMPLE_RATE_HZ = 24_000
# Audio computed at a time: its first convolutions hold 6 MB a second.
_PIECE_S = 20.0


class MimiTokenizer(NetworkTokenizer):
    """Codes of Mimi's first quantizer, which was distilled from a self-supervised model of speech."""

    kind = "mimi"
    revision = 1
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved)
        model = unpack_model(saved.document["network"]["config"], saved.files[WEIGHTS_FILE])
        self._encoder = model.encoder
        self._quantizer = model.quantizer.semantic_residual_vector_quantizer
        self._frame = round(SAMPLE_RATE_HZ / self.frame_rate_hz)
        self.codebook = self._first_codebook.embed.detach().clone().numpy()
        self.to("cpu")

    @classmethod
    def make(cls, settings: MimiSection, waveforms: Sequence[Float32] = (), device: str = "cpu") -> Saved:
        """Take what leads to the semantic codes from the folder that `settings` name.

        `waveforms` are listened to for `precision: auto` only. Raises ConfigError for a folder that cannot be used.
        """
        assert settings.model is not None
        uri = settings.model
        model: Any = read_model(uri, "tokenizer.mimi.model", ("mimi",))
        if model.config.sampling_rate != SAMPLE_RATE_HZ or not model.config.use_causal_conv:
            raise ConfigError(
                f"tokenizer.mimi.model: must be causal and take audio of {SAMPLE_RATE_HZ} Hz, found "
                f"{model.config.sampling_rate} Hz, causal {model.config.use_causal_conv} in {uri}"
            )
        # Neither the decoder nor the acoustic quantizers are of use; the model cannot be without one of the latter.
        model.decoder, model.config.decoder_config = None, None
        acoustic = model.quantizer.acoustic_residual_vector_quantizer
        acoustic.layers = acoustic.layers[:1]
        model.config.num_quantizers = model.config.num_semantic_quantizers + 1
        config, weights = pack_model(model)
        saved = Saved.of(
            {WEIGHTS_FILE: weights},
            kind=cls.kind,
            revision=cls.revision,
            sample_rate_hz=SAMPLE_RATE_HZ,
            frame_rate_hz=float(model.config.frame_rate),
            codebook_size=model.config.codebook_size,
            settings={"precision": "fp32"},
            network={"config": config},
        )
        return settle_precision(cls, saved, settings.precision, waveforms, device).with_notes(source=source_of(uri))

    @property
    def _first_codebook(self) -> Any:
        return self._quantizer.layers[0].codebook

    def _place(self, device: torch.device) -> None:
        self._encoder.to(device, self.dtype)
        # It keeps its centroids where they were first asked for.
        self._first_codebook._embed = None
        self._quantizer.to(device)

    def _encode(self, waveforms: Sequence[Float32]) -> list[Codes]:
        samples_BT = self._padded(waveforms, multiple=self._frame)
        codes_BF = self._quantizer.encode(self._latents(samples_BT).float(), num_quantizers=1)[0]
        return [
            to_codes(codes_F[: max(1, -(-len(waveform) // self._frame))])
            for codes_F, waveform in zip(codes_BF, waveforms, strict=True)
        ]

    def _latents(self, samples_BT: Tensor) -> Tensor:
        """What the quantizer is given, (B, D, F)."""
        samples_B1T = samples_BT[:, None].to(self.dtype)
        piece = max(1, round(_PIECE_S * self.frame_rate_hz)) * self._frame
        if samples_B1T.shape[2] <= piece:
            return self._encoder(samples_B1T).latents  # type: ignore[no-any-return]
        latents: list[Tensor] = []
        state: dict[str, Any] = {}
        for start in range(0, samples_B1T.shape[2], piece):
            found = self._encoder(samples_B1T[..., start : start + piece], use_streaming=True, **state)
            state = {"past_key_values": found.past_key_values, "padding_cache": found.padding_cache}
            latents.append(found.latents)
        return torch.cat(latents, 2)

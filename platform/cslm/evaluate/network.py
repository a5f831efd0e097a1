"""A trained model as measures look into it: what each token cost it, and what each layer made of a text or a speech."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cslm import storage
from cslm.lm import chain, text_tokenizer, vocabulary
from cslm.lm import model as lm_model
from cslm.lm.examples import ExampleBuilder
from cslm.lm.vocabulary import SPEECH_START, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
# Positions whose logits are held at a time: of a vocabulary of 130,000 half a gigabyte.
_LOGITS_AT_ONCE = 1024


class Network:
    """A model on a device, its tokenizer and its vocabulary."""

    def __init__(self, model: "PreTrainedModel", folder: str) -> None:
        self.model = model.eval()
        self.tokenizer = text_tokenizer.load(folder)
        self.layout: Vocabulary = vocabulary.load(folder)
        self._plain = ExampleBuilder(self.tokenizer, self.layout, chain.ChainSection(form="full"))

    @classmethod
    def load(cls, folder: str, device: str) -> "Network":
        """Open a trained model's folder or URI; in float32 on a CPU, elsewhere as it was saved."""
        with storage.local_folder(folder) as local:
            model = lm_model.load(local, torch.float32 if device == "cpu" else "auto")
            return cls(model.to(torch.device(device)), local)

    def builder(self, section: chain.ChainSection) -> ExampleBuilder:
        """Builds examples whose answers have a form."""
        return ExampleBuilder(self.tokenizer, self.layout, section)

    def speech_ids(self, units: Sequence[int]) -> list[int]:
        """Speech on its own: begin of text, begin of speech, the units."""
        return [*self._begin(), self.layout.special(SPEECH_START), *self.layout.unit_ids(units).tolist()]

    def text_ids(self, text: str) -> list[int]:
        """Text on its own, behind the begin of text."""
        return [*self._begin(), *text_tokenizer.encode(self.tokenizer, text)]

    def costs(self, sequences: Sequence["Measured"]) -> list[Float64]:
        """The negative log-likelihood in nats of each target of each sequence."""
        ids_BT, mask_BT = self._padded([sequence.ids for sequence in sequences])
        # The token at a place is foretold at the place before it.
        places = [
            (row, place) for row, one in enumerate(sequences) for place in range(1, len(one.ids)) if one.targets[place]
        ]
        found = self._costs(ids_BT, mask_BT, places)
        per_row = [sum(map(bool, one.targets[1:])) for one in sequences]
        return np.split(found, np.cumsum(per_row)[:-1])

    @torch.no_grad()
    def vectors(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> list[Float32]:
        """The mean over tokens of what each layer gives, (L, H) of each sequence, the embeddings not counted.

        `first`: where the content of each begins; what is before it is not in the mean.
        """
        ids_BT, mask_BT = self._padded(sequences)
        hidden = self.model.base_model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, output_hidden_states=True
        ).hidden_states[1:]
        starts_B = torch.tensor(first, device=ids_BT.device)
        counted_BT = mask_BT.bool() & (torch.arange(ids_BT.shape[1], device=ids_BT.device) >= starts_B[:, None])
        weights_BT = counted_BT / counted_BT.sum(1, keepdim=True).clamp_min(1)
        # In float32: the sum over thousands of tokens of bf16 loses digits.
        means_LBH = torch.stack([torch.einsum("bth,bt->bh", layer.float(), weights_BT) for layer in hidden])
        return list(means_LBH.transpose(0, 1).cpu().numpy())

    @torch.no_grad()
    def _costs(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, places: Sequence[tuple[int, int]]) -> Float64:
        if not places:
            return np.empty(0)
        hidden_BTH = self.model.base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        rows, at = (torch.tensor(one, device=ids_BT.device) for one in zip(*places, strict=True))
        hidden_NH, wanted_N = hidden_BTH[rows, at - 1], ids_BT[rows, at]
        parts = []
        for start in range(0, len(wanted_N), _LOGITS_AT_ONCE):
            logits_NV = self._logits(hidden_NH[start : start + _LOGITS_AT_ONCE])
            losses = torch.nn.functional.cross_entropy(
                logits_NV, wanted_N[start : start + _LOGITS_AT_ONCE], reduction="none"
            )
            parts.append(losses.double().cpu().numpy())
        return np.concatenate(parts)

    def _logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        logits_NV: torch.Tensor = head(hidden_NH).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, sequences))
        ids_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(sequences):
            ids_BT[row, : len(ids)] = torch.as_tensor(ids)
            mask_BT[row, : len(ids)] = 1
        return ids_BT.to(self.model.device), mask_BT.to(self.model.device)

    def _begin(self) -> list[int]:
        begin = self.tokenizer.bos_token_id
        return [] if begin is None else [int(begin)]


class Measured(NamedTuple):
    """A sequence of token ids, and which of them are to be foretold; the first never is."""

    ids: list[int]
    targets: list[int]


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Places of sequences of like length, so many at a time."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]

"""New rows of a language model's embeddings and head: drawn among the rows that its text has.

A model that is given units and marks gets rows for them that nobody has trained. What they begin as decides how many
tokens it takes until the model hears; docs/performance.md compares the ways, and `auto` is what was best there.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from cslm.errors import ConfigError
from cslm.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Initialisation = Literal["auto", "default", "mean", "covariance", "codebook"]

# Deviation of rows at the mean, as a share of the text's: rows still differ when weights are rounded to 16 bits.
_NOISE = 0.02
# Rows whose moments are summed up at a time: in double precision, a large vocabulary would take as much as the model.
_ROWS_AT_A_TIME = 8192


def chosen(wanted: Initialisation, *, from_scratch: bool, has_codebook: bool) -> Initialisation:
    """The way that `auto` stands for, or the wanted one. Raises ConfigError for `codebook` where there is none."""
    if wanted == "codebook" and not has_codebook:
        raise ConfigError(
            "model.initialisation: codebook needs a tokenizer that knows what its units stand for (k-means), found one "
            "that does not; take auto"
        )
    if wanted != "auto":
        return wanted
    if has_codebook:
        return "codebook"
    return "default" if from_scratch else "covariance"


@torch.no_grad()
def fill(
    model: "PreTrainedModel", layout: Vocabulary, way: Initialisation, codebook_KD: npt.NDArray[np.float32] | None
) -> None:
    """Draw all rows behind the text's, in the embeddings and in a head of its own; the text's stay as they are.

    `default` leaves what the model was made with. `mean` is the mean of the text's rows with a little noise,
    `covariance` a sample of the Gaussian of their mean and covariance (Hewitt, "Initializing New Word Embeddings for
    Pretrained Language Models", 2021). `codebook` turns what units stand for, [num_units, D], at random into the space,
    with the mean and the spread of the text's rows: units that sound alike begin alike; all other rows are drawn
    with the text's mean and deviation in each dimension. Rows follow from PyTorch's generator alone.
    """
    if way == "default":
        return
    matrices = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not matrices[0]:
        matrices.append(head.weight)
    turned_KH = None
    if way == "codebook":
        assert codebook_KD is not None
        turned_KH = _turned(codebook_KD, matrices[0].shape[1])
    for weight_VH in matrices:
        text_TH, new_NH = weight_VH[: layout.num_text], weight_VH[layout.num_text :]
        # In double precision, so that what sums differ by from one number of threads to another is rounded away: the
        # same seed gives the same model on any machine.
        mean_H, covariance_HH = _moments(text_TH)
        noise_NH = torch.randn(new_NH.shape, dtype=torch.float64)
        if way == "covariance":
            new_NH.copy_(mean_H + noise_NH @ _root(covariance_HH))
            continue
        share = _NOISE if turned_KH is None else 1.0
        new_NH.copy_(mean_H + noise_NH * (share * covariance_HH.diagonal().sqrt()))
        if turned_KH is not None:
            spread = covariance_HH.diagonal().mean().sqrt()
            new_NH[: layout.num_units].copy_(mean_H + turned_KH * spread)
    bias_V = getattr(head, "bias", None)
    if bias_V is not None:
        bias_V[layout.num_text :] = bias_V[: layout.num_text].double().mean()


def _turned(codebook_KD: npt.NDArray[np.float32], width: int) -> torch.Tensor:
    """Codes about their mean, turned at random into `width` dimensions, of deviation 1 over all entries."""
    codes_KD = torch.from_numpy(codebook_KD).double()
    centred_KD = codes_KD - codes_KD.mean(0)
    turn_DH = torch.nn.init.orthogonal_(torch.empty(centred_KD.shape[1], width, dtype=torch.float64))
    turned_KH = centred_KD @ turn_DH
    return turned_KH / turned_KH.std()


def _moments(rows_TH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [H] and covariance [H, H] of rows."""
    starts = range(0, len(rows_TH), _ROWS_AT_A_TIME)
    parts = [rows_TH[start : start + _ROWS_AT_A_TIME] for start in starts]
    mean_H = sum((part.double().sum(0) for part in parts), torch.zeros(1)) / len(rows_TH)
    covariance_HH = torch.zeros(rows_TH.shape[1], rows_TH.shape[1], dtype=torch.float64)
    for part in parts:
        centred_TH = part.double() - mean_H
        covariance_HH += centred_TH.T @ centred_TH / len(rows_TH)
    return mean_H, covariance_HH


def _root(covariance_HH: torch.Tensor) -> torch.Tensor:
    """The symmetric root of a covariance, which may be singular."""
    values_H, vectors_HH = torch.linalg.eigh(covariance_HH)
    root_HH: torch.Tensor = (vectors_HH * values_H.clamp(min=0).sqrt()) @ vectors_HH.T
    return root_HH

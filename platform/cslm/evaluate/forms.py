"""How a measure follows from sums over items: each item gives a few statistics, and the figure is a form of their sums.

So any figure can be had again for any choice of items, which is what a bootstrap does, and what comparing two models
on the same items needs.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cslm.evaluate import translation

Float64 = NDArray[np.float64]
# ratio: s0 / s1. perplexity: exp(s0 / s1). bleu, chrf: of the statistics of `translation`.
Form = Literal["ratio", "perplexity", "bleu", "chrf"]
FORMS: tuple[str, ...] = get_args(Form)


def value(form: str, sums_RS: Float64) -> Float64:
    """Sums of statistics (..., S) -> figures (...); NaN where there is nothing to divide by."""
    if form == "bleu":
        return _each(translation.bleu, sums_RS)
    if form == "chrf":
        return _each(translation.chrf, sums_RS)
    above, below = sums_RS[..., 0], sums_RS[..., 1]
    share: Float64 = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
    if form == "perplexity":
        # Beyond e**700 a double is infinite; no model is that surprised, but one that broke down gives such losses.
        return np.exp(np.minimum(share, 700.0))
    assert form == "ratio", form
    return share


def _each(score: translation.Scorer, sums_RS: Float64) -> Float64:
    flat = sums_RS.reshape(-1, sums_RS.shape[-1])
    return np.array([score(row) for row in flat]).reshape(sums_RS.shape[:-1])

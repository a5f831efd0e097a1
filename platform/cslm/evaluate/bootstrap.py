"""How sure a figure is: confidence intervals by resampling the items, and whether two models differ on the same ones.

The percentile bootstrap (Efron 1979) over items, and its paired form (Koehn 2004, "Statistical significance tests for
machine translation evaluation").
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.evaluate import forms

Float64 = NDArray[np.float64]
# Resamples times items that are held at a time.
_AT_ONCE = 4_000_000


class BootstrapSection(Section):
    """How confidence intervals are made."""

    resamples: int = setting(1000, "times that the items are drawn anew; 0: no intervals", ge=0)
    confidence: float = setting(0.95, "share of the resamples that an interval holds", gt=0, lt=1)
    seed: int = setting(0, "seed of the drawing")


@dataclass(frozen=True)
class Difference:
    """A figure of two models on the same items: both, b - a with its interval, and how likely it is chance."""

    a: float
    b: float
    low: float
    high: float
    # Two-sided: the share of resamples in which the sign is the other one, doubled.
    p_value: float
    num_items: int

    @property
    def difference(self) -> float:
        """By how much the second is higher."""
        return self.b - self.a


def interval(name: str, form: str, statistics_NS: Float64, section: BootstrapSection) -> tuple[float, float]:
    """Bounds of the confidence interval of a figure; both NaN without resamples or items.

    `name` goes into the seed: a figure's interval does not depend on which other figures there are.
    """
    drawn = [forms.value(form, counts @ statistics_NS) for counts in _draws(name, len(statistics_NS), section)]
    return _bounds(np.concatenate(drawn) if drawn else np.empty(0), section)


def compare(name: str, form: str, a_NS: Float64, b_NS: Float64, section: BootstrapSection) -> Difference:
    """The paired bootstrap: row n of both is what the two models gave for the same item."""
    assert len(a_NS) == len(b_NS)
    drawn = [
        forms.value(form, counts @ b_NS) - forms.value(form, counts @ a_NS)
        for counts in _draws(name, len(a_NS), section)
    ]
    differences = np.concatenate(drawn) if drawn else np.empty(0)
    differences = differences[np.isfinite(differences)]
    a, b = float(forms.value(form, a_NS.sum(0))), float(forms.value(form, b_NS.sum(0)))
    low, high = _bounds(differences, section)
    # One is added to both, so that no finite number of resamples makes a chance of zero (Davison & Hinkley 1997).
    tails = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (tails + 1) / (len(differences) + 1)) if len(differences) else float("nan")
    return Difference(a, b, low, high, p_value, len(a_NS))


def _draws(name: str, num_items: int, section: BootstrapSection) -> Iterator[Float64]:
    """How often each item is drawn, (R, N) at a time."""
    if num_items == 0:
        return
    rng = np.random.default_rng([section.seed, zlib.crc32(name.encode())])
    rows = max(1, _AT_ONCE // num_items)
    for start in range(0, section.resamples, rows):
        size = min(rows, section.resamples - start)
        yield rng.multinomial(num_items, np.full(num_items, 1 / num_items), size=size).astype(np.float64)


def _bounds(values: Float64, section: BootstrapSection) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - section.confidence) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)

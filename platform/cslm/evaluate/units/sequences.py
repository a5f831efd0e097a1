"""The two forms in which the measures take units: the code of every frame, or runs of equal codes."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cslm.speech.tokenizer import Codes, UnitSequence, expand_repeats, merge_repeats

# An array (F,) is always the codes of frames; runs come as a UnitSequence.
Units: TypeAlias = UnitSequence | NDArray[Any]


def merged(units: Units) -> Codes:
    """The codes of runs (U,), without their lengths: what a language model sees."""
    return units.units if isinstance(units, UnitSequence) else merge_repeats(np.asarray(units)).units


def frames(units: Units) -> Codes:
    """The code of every frame (F,)."""
    return expand_repeats(units) if isinstance(units, UnitSequence) else np.asarray(units).astype(np.uint16)

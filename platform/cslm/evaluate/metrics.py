"""Measures of what a model says. Character and word errors are those of `speech.transcript`."""

from collections.abc import Sequence

from cslm.speech.transcript import EditCounts as EditCounts
from cslm.speech.transcript import edit_counts as edit_counts
from cslm.speech.transcript import normalise as normalise


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an answer equals one of the accepted wordings after `normalise`; a longer or vaguer one does not."""
    return normalise(answer) in {normalise(wording) for wording in accepted}

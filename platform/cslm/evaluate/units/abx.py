"""ABX: is a word nearer to the same word of another speaker than to another word of that other speaker?

Of a triple, A and B are two words of one speaker and X is A's word by another speaker. The error is the share of
triples in which X is nearer to B; equally near counts half, so that units without any sense have 0.5. The distance is
the edit distance of merged units over the length of the longer sequence: as hard as a language model has it, to which
one code is as different from a second as from a third.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cslm.evaluate.units.sequences import Units, merged

_PAIRS_AT_ONCE = 4096


def abx_error(
    sequences: Sequence[Units],
    words: Sequence[str],
    speakers: Sequence[str],
    *,
    unheard: Sequence[str] = (),
    num_triples: int = 6000,
    seed: int = 0,
) -> float:
    """ABX error, 0 to 1, of words across speakers over `num_triples` sampled triples.

    With `unheard` speakers, X is always one of theirs and A and B are not: what a tokenizer makes of a new voice.
    Raises ValueError when there is no triple.
    """
    triples = sample_triples(words, speakers, unheard=unheard, num_triples=num_triples, seed=seed)
    runs = [merged(sequence) for sequence in sequences]
    to_a, to_b = (
        normalised_edit_distances([runs[i] for i in triples[:, other]], [runs[i] for i in triples[:, 2]])
        for other in (0, 1)
    )
    return float((to_a > to_b).mean() + 0.5 * (to_a == to_b).mean())


def sample_triples(
    words: Sequence[str], speakers: Sequence[str], *, unheard: Sequence[str], num_triples: int, seed: int
) -> NDArray[np.intp]:
    """Positions of A, B and X, (N, 3): A drawn evenly of all that can be one, then X and B evenly for it."""
    word, speaker = np.asarray(words, dtype=object), np.asarray(speakers, dtype=object)
    is_unheard = np.isin(speaker.astype(str), list(unheard))
    may_be_x = is_unheard if len(unheard) else np.ones(len(word), bool)
    choices: dict[tuple[str, str], tuple[NDArray[np.intp], NDArray[np.intp]]] = {}
    for said, who in sorted(set(zip(words, speakers, strict=True))):
        candidates_x = np.flatnonzero((word == said) & (speaker != who) & may_be_x)
        candidates_b = np.flatnonzero((word != said) & (speaker == who))
        if len(candidates_x) and len(candidates_b) and who not in unheard:
            choices[said, who] = candidates_x, candidates_b
    possible = [place for place, key in enumerate(zip(words, speakers, strict=True)) if key in choices]
    if not possible:
        raise ValueError(
            f"ABX needs a word of two speakers and another word of one of them, found {len(set(words))} words of "
            f"{len(set(speakers))} speakers, {len(set(unheard))} of them unheard"
        )
    rng = np.random.default_rng(seed)
    triples = []
    for a in rng.choice(possible, num_triples):
        candidates_x, candidates_b = choices[words[a], speakers[a]]
        triples.append((a, rng.choice(candidates_b), rng.choice(candidates_x)))
    return np.asarray(triples)


def normalised_edit_distances(left: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Edit distance of each pair over the length of its longer sequence (N,), 0 to 1; 0 for two empty ones."""
    distances = np.zeros(len(left))
    lengths = [max(len(one), len(other)) for one, other in zip(left, right, strict=True)]
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), _PAIRS_AT_ONCE):
        places = order[first : first + _PAIRS_AT_ONCE]
        distances[places] = _edit_distances([left[i] for i in places], [right[i] for i in places])
    return distances / np.maximum(lengths, 1)


def _edit_distances(left: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Levenshtein distances of pairs, computed together row by row."""
    left_NI, lengths_left = _padded(left, -1)
    right_NJ, lengths_right = _padded(right, -2)
    steps = np.arange(right_NJ.shape[1] + 1)
    row_NJ = np.tile(steps, (len(left_NI), 1))
    found = lengths_right.copy()
    for i in range(left_NI.shape[1]):
        replaced = row_NJ[:, :-1] + (left_NI[:, i : i + 1] != right_NJ)
        best_NJ = np.concatenate((row_NJ[:, :1] + 1, np.minimum(row_NJ[:, 1:] + 1, replaced)), axis=1)
        # Insertions cost one each: the least of all that stands to the left, further away by its distance.
        row_NJ = np.minimum.accumulate(best_NJ - steps, axis=1) + steps
        ended = lengths_left == i + 1
        found[ended] = row_NJ[ended, lengths_right[ended]]
    return found


def _padded(sequences: Sequence[NDArray[Any]], fill: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.asarray([len(sequence) for sequence in sequences], np.int64)
    padded = np.full((len(sequences), int(lengths.max(initial=0))), fill, np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths

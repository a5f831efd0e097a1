"""What a simple reader finds in units: the word of an unheard speaker, or, where it should not, the speaker.

The classifier is the same for all tokenizers: logistic regression over how often each merged unit and each pair of
neighbouring units occurs, an utterance's counts scaled to length 1. It sees what a language model would see, and it
has to learn from other voices which units mean the same, for it knows nothing of what codes sound like.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from cslm.evaluate.units.sequences import Units, merged

# Weak regularisation: most pairs are rare, and the counts of an utterance are scaled down.
_INVERSE_REGULARISATION = 10.0
_MAX_ITERATIONS = 300


def label_accuracy(
    train: Sequence[Units], train_labels: Sequence[str], test: Sequence[Units], test_labels: Sequence[str]
) -> float:
    """Share of the test utterances whose label the classifier of the train utterances gives; 0 to 1.

    Labels are words with test speakers that do not train for word accuracy. Raises ValueError when the train labels
    are all the same.
    """
    counts = pair_counts([*train, *test])
    # What occurs in the test alone has no weight; leaving it out keeps the scale of the rest.
    seen = np.asarray(counts[: len(train)].sum(0)).ravel() > 0
    features = normalize(counts[:, seen])
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=_MAX_ITERATIONS)
    model.fit(features[: len(train)], list(train_labels))
    return float(model.score(features[len(train) :], list(test_labels)))


def speaker_accuracy(sequences: Sequence[Units], speakers: Sequence[str], words: Sequence[str]) -> float:
    """Share of held-out utterances whose speaker the classifier gives: how much units tell of the voice.

    Every fourth utterance of each word of each speaker is held out, so that the words give no speaker away. Lower is
    better; chance is one in the number of speakers.
    """
    held_out = every_fourth(list(zip(speakers, words, strict=True)))
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return label_accuracy(
        [sequences[i] for i in train],
        [speakers[i] for i in train],
        [sequences[i] for i in test],
        [speakers[i] for i in test],
    )


def every_fourth(groups: Sequence[object]) -> NDArray[np.bool_]:
    """A mask (N,) of the fourth, eighth ... item of each group."""
    met: dict[object, int] = {}
    chosen = np.zeros(len(groups), bool)
    for place, group in enumerate(groups):
        met[group] = met.get(group, 0) + 1
        chosen[place] = met[group] % 4 == 0
    return chosen


def pair_counts(sequences: Sequence[Units]) -> sparse.csr_matrix:
    """How often each merged unit and each pair of neighbours occurs: (N, kinds of units and pairs that occur)."""
    runs = [merged(sequence).astype(np.int64) for sequence in sequences]
    # A pair's number lies above all single units' numbers.
    base = 1 + max((int(run.max()) for run in runs if len(run)), default=0)
    events = [np.concatenate((run, base * (run[:-1] + 1) + run[1:])) for run in runs]
    kinds, columns = np.unique(np.concatenate(events), return_inverse=True)
    rows = np.repeat(np.arange(len(events)), [len(event) for event in events])
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(events), len(kinds)))

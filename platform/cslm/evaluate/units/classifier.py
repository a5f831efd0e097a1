"""What a simple reader finds in units: the word of an unheard speaker, or, where it should not, the speaker.

The classifier is the same for all tokenizers: logistic regression over how often each merged unit and each pair of
neighbouring units occurs, an utterance's counts scaled to length 1. It sees what a language model would see, and it
has to learn from other voices which units mean the same, for it knows nothing of what codes sound like.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise

from sklearn.feature_extraction.text import CountVectorizer
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
    # What occurs in the test alone has no weight: it is not counted at all.
    counter = CountVectorizer(analyzer=units_and_pairs)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=_MAX_ITERATIONS)
    model.fit(normalize(counter.fit_transform(train)), list(train_labels))
    return float(model.score(normalize(counter.transform(test)), list(test_labels)))


def speaker_accuracy(sequences: Sequence[Units], speakers: Sequence[str], words: Sequence[str]) -> float:
    """Share of held-out utterances whose speaker the classifier gives: how much units tell of the voice.

    Every fourth utterance of each word of each speaker is held out, so that the words give no speaker away. Lower is
    better; chance is one in the number of speakers.
    """
    held_out = every_fourth(list(zip(speakers, words, strict=True)))
    train, test = ([place for place, out in enumerate(held_out) if out is wanted] for wanted in (False, True))
    return label_accuracy(
        [sequences[place] for place in train],
        [speakers[place] for place in train],
        [sequences[place] for place in test],
        [speakers[place] for place in test],
    )


def every_fourth(groups: Sequence[Hashable]) -> list[bool]:
    """Which items (N,) are the fourth, eighth ... of their group."""
    met: Counter[Hashable] = Counter()
    chosen = []
    for group in groups:
        met[group] += 1
        chosen.append(met[group] % 4 == 0)
    return chosen


def units_and_pairs(sequence: Units) -> list[str]:
    """Each merged unit and each pair of neighbours, as often as they occur, by name."""
    names = [str(unit) for unit in merged(sequence).tolist()]
    return names + [f"{one} {other}" for one, other in pairwise(names)]

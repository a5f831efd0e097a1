import numpy as np
import pytest

from cslm.evaluate.units.classifier import every_fourth, label_accuracy, speaker_accuracy, units_and_pairs
from cslm.speech.tokenizer import merge_repeats


def corpus(num_speakers, *, word_tells, speaker_tells, seed=0):
    """Ten utterances of five words by each speaker: units of word, of speaker and of chance, as far as told."""
    rng = np.random.default_rng(seed)
    sequences, words, speakers = [], [], []
    for speaker in range(num_speakers):
        for word in range(5):
            for _ in range(10):
                codes = rng.integers(0, 50, 12)
                if word_tells:
                    codes[[2, 6, 9]] = 100 + 3 * word + np.arange(3)
                if speaker_tells:
                    codes[[3, 7]] = 200 + speaker
                sequences.append(np.repeat(codes, rng.integers(1, 4, 12)))
                words.append(f"word {word}")
                speakers.append(f"speaker {speaker}")
    return sequences, words, speakers


def word_accuracy(sequences, words, speakers):
    test = [place for place, speaker in enumerate(speakers) if speaker == "speaker 0"]
    train = [place for place, speaker in enumerate(speakers) if speaker != "speaker 0"]
    return label_accuracy(
        *([column[place] for place in part] for part in (train, test) for column in (sequences, words))
    )


def test_words_are_found_where_units_tell_them():
    assert word_accuracy(*corpus(4, word_tells=True, speaker_tells=True)) > 0.95
    assert word_accuracy(*corpus(4, word_tells=False, speaker_tells=True)) < 0.45


def test_speakers_are_found_where_units_tell_them():
    told = corpus(4, word_tells=True, speaker_tells=True)
    untold = corpus(4, word_tells=True, speaker_tells=False)
    assert speaker_accuracy(told[0], told[2], told[1]) > 0.95
    assert speaker_accuracy(untold[0], untold[2], untold[1]) < 0.45


def test_order_is_heard_through_pairs():
    rng = np.random.default_rng(3)
    forward, backward = np.array([1, 2, 3]), np.array([3, 2, 1])
    sequences = [np.concatenate((rng.integers(10, 30, 5), (forward, backward)[i % 2])) for i in range(80)]
    labels = [("forward", "backward")[i % 2] for i in range(80)]
    assert label_accuracy(sequences[:60], labels[:60], sequences[60:], labels[60:]) > 0.9


def test_neither_names_of_codes_nor_lengths_of_runs_matter():
    sequences, words, speakers = corpus(3, word_tells=True, speaker_tells=True, seed=5)
    names = np.random.default_rng(0).permutation(300)
    renamed = [merge_repeats(names[sequence]) for sequence in sequences]
    assert word_accuracy(sequences, words, speakers) == word_accuracy(renamed, words, speakers)


def test_units_that_only_the_test_has_are_no_obstacle():
    train = [np.array([1, 2]), np.array([3, 4])] * 3
    assert label_accuracy(train, ["a", "b"] * 3, [np.array([1, 2, 900]), np.array([700, 3, 4])], ["a", "b"]) == 1


def test_units_and_pairs_of_runs():
    assert sorted(units_and_pairs(np.array([1, 1, 0, 1, 0]))) == ["0", "0", "0 1", "1", "1", "1 0", "1 0"]
    assert units_and_pairs(np.array([7])) == ["7"]


def test_a_fourth_of_every_group_is_held_out():
    groups = ["a"] * 8 + ["b"] * 3 + ["c"] * 4
    assert [place for place, out in enumerate(every_fourth(groups)) if out] == [3, 7, 14]


def test_one_label_is_no_choice():
    with pytest.raises(ValueError, match="class"):
        label_accuracy([np.array([1]), np.array([2])], ["a", "a"], [np.array([1])], ["a"])

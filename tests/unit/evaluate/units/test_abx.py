import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.evaluate.units.abx import abx_error, normalised_edit_distances, sample_triples

runs = st.lists(st.integers(0, 3), max_size=12)


def of(*sequences):
    return [np.array(sequence, np.uint16) for sequence in sequences]


@given(st.lists(st.tuples(runs, runs), min_size=1, max_size=6))
def test_the_distance_is_that_of_another_implementation(pairs):
    found = normalised_edit_distances(of(*(left for left, _ in pairs)), of(*(right for _, right in pairs)))
    for (left, right), distance in zip(pairs, found, strict=True):
        if left and right:
            counts = jiwer.process_words(" ".join(map(str, left)), " ".join(map(str, right)))
            edits = counts.substitutions + counts.deletions + counts.insertions
        else:
            edits = len(left) + len(right)
        assert distance == pytest.approx(edits / max(len(left), len(right), 1))


def test_more_pairs_than_are_computed_at_once_keep_their_places(monkeypatch):
    rng = np.random.default_rng(0)
    left, right = ([rng.integers(0, 4, rng.integers(0, 15)) for _ in range(50)] for _ in range(2))
    whole = normalised_edit_distances(left, right)
    monkeypatch.setattr("cslm.evaluate.units.abx._PAIRS_AT_ONCE", 7)
    assert np.array_equal(normalised_edit_distances(left, right), whole)


WORDS = ["one", "two", "one", "two"]
SPEAKERS = ["ann", "ann", "bob", "bob"]


@pytest.mark.parametrize(
    ("sequences", "error"),
    [
        (of([1, 2, 3], [7, 8, 9], [1, 2, 4], [7, 8]), 0.0),  # words sound alike
        (of([1, 2, 3], [7, 8, 9], [7, 8, 4], [1, 2]), 1.0),  # each word sounds like the other
        (of([1, 1], [1, 1], [1, 1], [1, 1]), 0.5),  # nothing is told apart
        (of([1, 2], [3, 4], [5, 6], [7, 8]), 0.5),  # speakers share nothing
    ],
)
def test_known_errors(sequences, error):
    assert abx_error(sequences, WORDS, SPEAKERS, num_triples=50) == error


def test_units_of_speakers_alone_are_no_better_than_chance():
    rng = np.random.default_rng(1)
    words, speakers = [str(i % 10) for i in range(400)], [str(i // 100) for i in range(400)]
    sequences = [rng.integers(10 * int(speaker), 10 * int(speaker) + 10, 12) for speaker in speakers]
    assert abx_error(sequences, words, speakers) == 0.5


def test_a_repeated_frame_is_no_difference():
    short = of([1, 2, 3], [3, 2, 1], [1, 2, 3], [3, 2, 1])
    long = [np.repeat(sequence, times) for sequence, times in zip(short, (1, 4, 9, 2), strict=True)]
    assert abx_error(long, WORDS, SPEAKERS, num_triples=50) == 0.0


def test_triples_are_what_they_should_be():
    words = [word for word in ("one", "two", "six") for _ in range(6)]
    speakers = ["ann", "bob", "cid"] * 6
    for unheard in ([], ["cid"]):
        triples = sample_triples(words, speakers, unheard=unheard, num_triples=300, seed=3)
        assert len({tuple(triple) for triple in triples.tolist()}) > 80
        for a, b, x in triples:
            assert words[a] == words[x] != words[b]
            assert speakers[a] == speakers[b] != speakers[x]
            assert not unheard or (speakers[x] == "cid" and speakers[a] != "cid")
    again = sample_triples(words, speakers, unheard=["cid"], num_triples=300, seed=3)
    assert np.array_equal(triples, again)
    assert not np.array_equal(triples, sample_triples(words, speakers, unheard=["cid"], num_triples=300, seed=4))


def test_without_a_second_speaker_there_is_no_triple():
    with pytest.raises(ValueError, match="found 2 words of 1 speakers"):
        abx_error(of([1], [2]), ["one", "two"], ["ann", "ann"])

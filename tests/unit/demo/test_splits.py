import numpy as np
import pytest

from cslm.demo.facts import all_facts
from cslm.demo.grammar import STATEMENTS, available_languages, meaning, num_meanings
from cslm.demo.splits import SPLITS, meanings_by_split, meanings_of, question_splits


@pytest.mark.parametrize("kind", STATEMENTS)
def test_every_meaning_belongs_to_one_split(kind):
    parts = meanings_by_split(kind)
    assert sorted(np.concatenate(parts)) == list(range(num_meanings(kind)))
    shares = [len(part) / num_meanings(kind) for part in parts]
    assert shares == pytest.approx([21 / 24, 1 / 24, 2 / 24], abs=0.01)


@pytest.mark.parametrize("count", [1, 12, 240, 360])
def test_meanings_are_drawn_in_the_shares_of_their_splits(count):
    drawn = meanings_of("weather_is", count, seed=7, phase=0.5)
    assert len(np.unique(drawn[:, 0])) == count
    counts = np.bincount(drawn[:, 1], minlength=3)
    assert counts == pytest.approx([count * 21 / 24, count / 24, count * 2 / 24], abs=1)
    members = [set(part) for part in meanings_by_split("weather_is")]
    assert all(index in members[split] for index, split in drawn)


def test_another_seed_draws_other_meanings():
    one, other = (set(meanings_of("person_has", 50, seed=seed, phase=0.5)[:, 0]) for seed in (1, 2))
    assert len(one & other) < 10


@pytest.mark.parametrize("language", available_languages())
def test_every_question_has_a_split_and_every_fact_two_train_wordings(language):
    splits = [question_splits(fact, language) for fact in all_facts()]
    assert all(row.count("train") >= 2 for row in splits)
    flat = [split for row in splits for split in row]
    assert flat.count("test") / len(flat) == pytest.approx(2 / 24, abs=0.002)
    assert flat.count("dev") / len(flat) == pytest.approx(1 / 24, abs=0.002)
    assert set(flat) == set(SPLITS)


def test_fewer_concepts_keep_every_meaning_in_its_split():
    everything = dict(meanings_of("person_goes", num_meanings("person_goes"), seed=1, phase=0.5))
    few = meanings_of("person_goes", 200, seed=1, phase=0.5, concepts=4)
    assert len(few) == 200
    assert all(everything[index] == split for index, split in few)
    spoken_of = {slot for index, _ in few for slot in meaning("person_goes", int(index)).slots}
    assert len(spoken_of) == 4 * 4

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.evaluate import bootstrap
from cslm.evaluate.bootstrap import BootstrapSection

SECTION = BootstrapSection(resamples=400)


def shares(values):
    return np.stack([np.array(values, float), np.ones(len(values))], 1)


def test_the_interval_of_a_share_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).random(400) < 0.3
    low, high = bootstrap.interval("x", "ratio", shares(values), SECTION)
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert high - low == pytest.approx(2 * spread, rel=0.2)
    assert low < values.mean() < high


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_an_interval_lies_within_what_items_have(values):
    low, high = bootstrap.interval("x", "ratio", shares(values), BootstrapSection(resamples=50))
    assert min(values) <= low <= high <= max(values)


def test_the_same_items_and_seed_give_the_same_interval_and_another_seed_another():
    values = shares(np.random.default_rng(1).random(50))
    first = bootstrap.interval("asr/en/cer", "ratio", values, SECTION)
    assert first == bootstrap.interval("asr/en/cer", "ratio", values, SECTION)
    assert first != bootstrap.interval("asr/en/cer", "ratio", values, BootstrapSection(resamples=400, seed=1))


def test_many_items_are_drawn_in_parts_that_give_the_same(monkeypatch):
    values = shares(np.random.default_rng(1).random(50))
    whole = bootstrap.interval("x", "ratio", values, SECTION)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 50 * 7)
    assert bootstrap.interval("x", "ratio", values, SECTION) == pytest.approx(whole)


def test_without_resamples_or_items_there_is_no_interval():
    assert all(map(math.isnan, bootstrap.interval("x", "ratio", shares([1, 0]), BootstrapSection(resamples=0))))
    assert all(map(math.isnan, bootstrap.interval("x", "ratio", np.empty((0, 2)), SECTION)))


def test_a_small_but_steady_difference_is_told_from_chance_only_in_pairs():
    rng = np.random.default_rng(2)
    a = rng.random(200)
    b = a + 0.01 + 0.001 * rng.random(200)
    found = bootstrap.compare("x", "ratio", shares(a), shares(b), SECTION)
    assert found.low > 0
    assert found.p_value < 0.02
    assert found.difference == pytest.approx(b.mean() - a.mean())
    # The intervals of the two alone overlap.
    assert (
        bootstrap.interval("x", "ratio", shares(a), SECTION)[1]
        > bootstrap.interval("x", "ratio", shares(b), SECTION)[0]
    )


def test_a_model_does_not_differ_from_itself():
    values = shares(np.random.default_rng(3).random(30))
    found = bootstrap.compare("x", "ratio", values, values, SECTION)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1.0)


def test_differences_by_chance_are_called_so_as_often_as_the_level_says():
    rng = np.random.default_rng(4)
    section = BootstrapSection(resamples=200)
    clear = 0
    for _ in range(200):
        found = bootstrap.compare("x", "ratio", shares(rng.random(40)), shares(rng.random(40)), section)
        clear += found.p_value < 0.05
    assert 1 <= clear <= 24

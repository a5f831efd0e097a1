import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cslm.lm.sampling import Chooser, Sampling, nucleus

ONE = np.arange(1)


def test_tokens_come_as_often_as_they_are_likely_among_those_that_hold_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    numbers = torch.linspace(0, 1, 10_001)[:-1]
    drawn = torch.cat([nucleus(logits, 0.7, number[None]) for number in numbers[::20]])
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.01)


@given(
    size=st.integers(2, 700),
    top_p=st.floats(0.01, 1),
    number=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 99),
)
def test_what_is_drawn_is_the_same_however_large_the_vocabulary_and_never_banned(size, top_p, number, seed):
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
    logits[0, size // 2 :] = -torch.inf
    drawn = int(nucleus(logits, top_p, torch.tensor([number])))
    ordered, ids = logits.softmax(-1).sort(descending=True)
    held = ordered.cumsum(-1)
    inside = int(((held - ordered) < top_p).sum())
    assert drawn in ids[0, :inside].tolist()
    assert logits[0, drawn] > -torch.inf


def test_a_row_draws_the_same_alone_and_beside_others():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=2.0, top_p=1.0)
    together, alone = Chooser(sampling, [[1, 2], [3], [4]]), Chooser(sampling, [[3]])
    assert [int(together(np.arange(3), logits)[1]) for _ in range(20)] == [
        int(alone(ONE, logits[1:2])) for _ in range(20)
    ]


def test_another_seed_draws_otherwise():
    logits = torch.zeros(1, 1000)
    draws = [int(Chooser(Sampling(seed=seed, top_p=1.0), [[1]])(ONE, logits)) for seed in range(5)]
    assert len(set(draws)) == 5


def test_without_temperature_the_likeliest_is_taken():
    assert Chooser(Sampling(temperature=0), [[1]])(ONE, torch.tensor([[0.1, 0.3, 0.2]])).tolist() == [1]

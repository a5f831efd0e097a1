from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.train.schedule import Schedule

KINDS = ("cosine", "linear", "constant", "wsd")


@pytest.mark.parametrize("kind", KINDS)
def test_the_learning_rate_rises_then_follows_its_schedule(kind):
    schedule = Schedule(kind, 100, warmup_fraction=0.1)
    rates = [schedule.scale(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[-1] == (1.0 if kind == "constant" else pytest.approx(0, abs=0.06))


def test_wsd_stays_at_the_peak_until_its_decay():
    schedule = Schedule("wsd", 1000, warmup_fraction=0.1, decay_fraction=0.2, final_fraction=0.1)
    assert {schedule.scale(step) for step in range(100, 801)} == {1.0}
    assert schedule.scale(900) == pytest.approx(0.55)
    assert schedule.scale(999) == pytest.approx(0.1, abs=0.01)


@given(
    kind=st.sampled_from(KINDS),
    num_steps=st.integers(1, 3000),
    warmup=st.floats(0, 0.99),
    decay=st.floats(0.001, 1),
    final=st.floats(0, 1),
)
def test_every_schedule_rises_to_the_peak_and_never_rises_again(kind, num_steps, warmup, decay, final):
    schedule = Schedule(kind, num_steps, warmup, decay, final)
    rates = [schedule.scale(step) for step in range(num_steps)]
    top = max(1, round(warmup * num_steps))
    assert all(first <= second for first, second in pairwise(rates[:top]))
    assert all(first >= second - 1e-12 for first, second in pairwise(rates[top - 1 :]))
    assert all(0 < rate <= 1 for rate in rates[:top])
    assert all(final - 1e-12 <= rate <= 1 for rate in rates[top:])
    if top <= num_steps:
        assert rates[top - 1] == 1

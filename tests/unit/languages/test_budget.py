"""What a run may still cost."""

import math

from hypothesis import given
from hypothesis import strategies as st

from cslm.languages import budget
from cslm.languages.budget import BudgetSection, Spent


def test_without_limits_there_is_no_end() -> None:
    assert budget.left_s(Spent(1e9, 1e9), 8, BudgetSection()) == math.inf


def test_the_limit_that_is_reached_first_counts() -> None:
    section = BudgetSection(gpu_hours=2, hours=10, money=5, price_per_gpu_hour=1, price_per_hour=1)
    assert budget.left_s(Spent(), 1, section) == 2 * 3600
    assert budget.left_s(Spent(), 4, section) == 1800
    assert budget.left_s(Spent(3600, 3600), 1, section) == 3600
    assert budget.left_s(Spent(9000, 3600), 1, section) == (5 - 3.5) / 2 * 3600
    assert budget.left_s(Spent(3600, 7200), 1, section) == 0
    assert budget.told(Spent(3600, 7200), section) == "1.00 of 10 hours, 2.00 of 2 GPU-hours, 3.00 of 5 of money"


@given(
    steps=st.lists(st.tuples(st.floats(1, 1e4), st.integers(0, 8)), max_size=8),
    hours=st.floats(0.1, 10), gpu_hours=st.floats(0.1, 10), price=st.floats(0.1, 10),
)  # fmt: skip
def test_a_step_that_takes_what_is_left_stays_within_every_limit(
    steps: list[tuple[float, int]], hours: float, gpu_hours: float, price: float
) -> None:
    section = BudgetSection(hours=hours, gpu_hours=gpu_hours, money=20, price_per_gpu_hour=price, price_per_hour=1)
    spent = Spent()
    for wanted_s, gpus in steps:
        spent = spent.plus(min(wanted_s, budget.left_s(spent, gpus, section)), gpus)
    assert spent.wall_s <= hours * 3600 * (1 + 1e-9)
    assert spent.gpu_s <= gpu_hours * 3600 * (1 + 1e-9)
    assert spent.money(section) <= 20 * (1 + 1e-9)

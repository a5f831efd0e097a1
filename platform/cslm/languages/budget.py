"""What a run may cost, and what it has cost so far, over all its interruptions."""

import math
from dataclasses import dataclass

from cslm.config import Section, setting


class BudgetSection(Section):
    """Limits of one run; a run that reaches one ends there, and goes on when the limit is raised."""

    gpu_hours: float | None = setting(None, "GPUs of the cluster times the hours that steps take", unit="h", gt=0)
    hours: float | None = setting(None, "hours that steps take", unit="h", gt=0)
    money: float | None = setting(None, "by the two prices, in their currency", gt=0)
    price_per_gpu_hour: float = setting(0.0, "price of a GPU for an hour", ge=0)
    price_per_hour: float = setting(0.0, "price of all else of the cluster for an hour", ge=0)


@dataclass(frozen=True)
class Spent:
    """What steps took: seconds, and seconds times GPUs."""

    wall_s: float = 0.0
    gpu_s: float = 0.0

    def plus(self, wall_s: float, num_gpus: float) -> "Spent":
        """With a step of `wall_s` seconds on so many GPUs."""
        return Spent(self.wall_s + wall_s, self.gpu_s + wall_s * num_gpus)

    def money(self, section: BudgetSection) -> float:
        """What it cost."""
        return self.gpu_s / 3600 * section.price_per_gpu_hour + self.wall_s / 3600 * section.price_per_hour


def left_s(spent: Spent, num_gpus: float, section: BudgetSection) -> float:
    """Seconds for which the next step may run on so many GPUs: infinite without a limit, 0 when nothing is left."""
    found = [math.inf]
    if section.hours is not None:
        found.append(section.hours * 3600 - spent.wall_s)
    if section.gpu_hours is not None and num_gpus > 0:
        found.append((section.gpu_hours * 3600 - spent.gpu_s) / num_gpus)
    rate = num_gpus * section.price_per_gpu_hour + section.price_per_hour
    if section.money is not None and rate > 0:
        found.append((section.money - spent.money(section)) / rate * 3600)
    return max(0.0, min(found))


def told(spent: Spent, section: BudgetSection) -> str:
    """What was spent, and of what."""
    parts = [
        _of(spent.wall_s / 3600, section.hours, "hours"),
        _of(spent.gpu_s / 3600, section.gpu_hours, "GPU-hours"),
    ]
    if section.price_per_gpu_hour or section.price_per_hour:
        parts.append(_of(spent.money(section), section.money, "of money"))
    return ", ".join(parts)


def _of(value: float, limit: float | None, unit: str) -> str:
    return f"{value:.2f}" + (f" of {limit:g}" if limit is not None else "") + f" {unit}"

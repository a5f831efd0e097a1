"""The facts that the demo corpus asks about: small closed worlds whose answers a program can check.

A fact is a kind and its concepts, the answer last. There are a few hundred, so that a model of a few million
parameters can learn them in minutes, and each can be asked in many ways and languages.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from cslm.demo.grammar import DAYS

NUMBERS = tuple(str(number) for number in range(21))
OPERANDS = range(1, 10)
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
THING_COLOURS = {
    **{"sky": "blue", "sea": "blue", "grass": "green", "frog": "green", "snow": "white", "milk": "white"},
    **{"salt": "white", "blood": "red", "tomato": "red", "strawberry": "red", "lemon": "yellow", "banana": "yellow"},
    **{"coal": "black", "crow": "black", "chocolate": "brown", "elephant": "grey"},
}
OPPOSITES = {
    **{"big": "small", "hot": "cold", "fast": "slow", "good": "bad", "open": "closed", "full": "empty"},
    **{"day": "night", "happy": "sad", "rich": "poor", "clean": "dirty", "easy": "difficult", "wet": "dry"},
    **{"strong": "weak"},
}
CAPITALS = {
    **{"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin", "China": "Beijing"},
    **{"Japan": "Tokyo", "Russia": "Moscow", "Egypt": "Cairo", "England": "London", "Portugal": "Lisbon"},
    **{"Cuba": "Havana", "Peru": "Lima"},
}
ANIMALS_BY_SIZE = ("ant", "mouse", "rabbit", "sheep", "horse", "elephant")


@dataclass(frozen=True)
class Fact:
    """Something that is so in every language: a kind and the concepts of its slots, the answer last."""

    kind: str
    slots: tuple[str, ...]


def _of_kind() -> Iterator[list[Fact]]:
    sums = [(str(a), str(b), str(a + b)) for a in OPERANDS for b in OPERANDS]
    yield [Fact("addition", numbers) for numbers in sums]
    yield [Fact("subtraction", (total, b, a)) for a, b, total in sums]
    yield [Fact("colour", pair) for pair in THING_COLOURS.items()]
    for name, series, is_cycle in (("day", DAYS, True), ("month", MONTHS, True), ("number", NUMBERS, False)):
        steps = list(zip(series, series[1:] + series[:1], strict=True))[: None if is_cycle else -1]
        yield [Fact(f"{name}_after", step) for step in steps]
        yield [Fact(f"{name}_before", (later, earlier)) for earlier, later in steps]
    pairs = [pair for one, other in OPPOSITES.items() for pair in ((one, other), (other, one))]
    yield [Fact("opposite", pair) for pair in pairs]
    yield [Fact("capital", pair) for pair in CAPITALS.items()]
    yield [Fact("country", (city, country)) for country, city in CAPITALS.items()]
    sizes = list(combinations(ANIMALS_BY_SIZE, 2))
    yield [Fact("bigger", (small, big, big)) for small, big in sizes]
    yield [Fact("smaller", (small, big, small)) for small, big in sizes]


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact, kind by kind."""
    return tuple(fact for facts in _of_kind() for fact in facts)


@cache
def fact_kinds() -> tuple[str, ...]:
    """The kinds of facts, in order."""
    return tuple(dict.fromkeys(fact.kind for fact in all_facts()))

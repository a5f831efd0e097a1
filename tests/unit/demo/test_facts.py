from collections import Counter

from cslm.demo.facts import NUMBERS, all_facts, fact_kinds


def test_facts_are_distinct_and_every_kind_has_a_dozen():
    assert len(set(all_facts())) == len(all_facts())
    counts = Counter(fact.kind for fact in all_facts())
    # A week has no more days.
    assert all(count >= (7 if kind.startswith("day") else 12) for kind, count in counts.items())
    assert tuple(counts) == fact_kinds()


def test_a_question_has_one_answer():
    asked = Counter((fact.kind, fact.slots[:-1]) for fact in all_facts() if fact.kind not in ("bigger", "smaller"))
    assert set(asked.values()) == {1}


def test_arithmetic_is_right_and_stays_within_twenty():
    for fact in all_facts():
        if fact.kind in ("addition", "subtraction"):
            a, b, result = map(int, fact.slots)
            assert (a + b if fact.kind == "addition" else a - b) == result
            assert all(slot in NUMBERS for slot in fact.slots)
        if fact.kind.startswith("number_"):
            known, answer = map(int, fact.slots)
            assert answer - known == (1 if fact.kind == "number_after" else -1)


def test_steps_go_round_the_week_and_the_year():
    slots = {(fact.kind, *fact.slots) for fact in all_facts()}
    assert ("day_after", "Sunday", "Monday") in slots
    assert ("day_before", "Monday", "Sunday") in slots
    assert ("month_after", "December", "January") in slots
    assert ("month_before", "January", "December") in slots

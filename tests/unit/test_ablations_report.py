from cslm.apps.ablations_report import Expectation, pooled, verdict
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection


def scores(right_across: list[int], right_within: list[int]):
    rows = [figures.score("answer/en-zh", "accuracy", f"q{n}", [one, 1]) for n, one in enumerate(right_across)]
    rows += [figures.score("answer/en-en", "accuracy", f"q{n}", [one, 1]) for n, one in enumerate(right_within)]
    rows += [figures.score("asr/en", "cer", "u", [1, 10]), figures.score("asr/zh", "cer", "u", [2, 10])]
    return pooled(figures.table(rows))


def test_items_of_all_directions_are_pooled_within_and_across_languages():
    found = figures.metrics(figures.figures(scores([1, 0, 0, 0], [1, 1, 1, 0]), BootstrapSection(resamples=0)))
    assert found == {
        "answer/accuracy": 0.5,
        "answer/across/accuracy": 0.25,
        "answer/within/accuracy": 0.75,
        "asr/cer": 0.15,
    }


def test_a_direction_is_seen_when_chance_would_hardly_give_it():
    base, worse, alike = scores([1] * 20, [1] * 20), scores([0] * 15 + [1] * 5, [1] * 20), scores([1] * 20, [1] * 20)
    falls = Expectation("answer/across", "accuracy", -1)
    rises = Expectation("answer/across", "accuracy", +1)

    def found(other):
        differences = figures.compared(base, other, BootstrapSection())
        return {(group, metric): difference for group, metric, difference in differences}

    across = found(worse)[("answer/across", "accuracy")]
    assert verdict(falls, across) == "yes"
    assert verdict(rises, across) == "no, the other way"
    assert verdict(falls, found(alike)[("answer/across", "accuracy")]).startswith("not told from chance")
    assert verdict(falls, None) == "not measured"
    assert falls.told() == "right across languages falls"

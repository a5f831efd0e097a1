import pyarrow as pa
import pytest

from cslm.errors import ContractError
from cslm.evaluate import figures
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.evaluate.figures import score

SECTION = BootstrapSection(resamples=50)


def scores(values, metric="accuracy", task="answer/en-zh"):
    return [score(task, metric, f"d{number}", [value, 1]) for number, value in enumerate(values)]


def test_a_figure_has_value_interval_and_number_of_items():
    found = figures.figures(figures.table([*scores([1, 0, 1, 1]), *scores([0.5], "cer", "asr/en")]), SECTION)
    assert [figure.name for figure in found] == ["answer/en-zh/accuracy", "asr/en/cer"]
    assert (found[0].value, found[0].num_items) == (0.75, 4)
    assert 0 <= found[0].low <= 0.75 <= found[0].high <= 1
    assert figures.metrics(found) == {"answer/en-zh/accuracy": 0.75, "asr/en/cer": 0.5}
    assert figures.counts(found) == {"answer/en-zh": 4, "asr/en": 1}


def test_a_measure_of_nothing_is_left_out():
    assert figures.figures(figures.table([score("asr/en", "cer", "u0", [0, 0])]), SECTION) == []
    assert figures.figures(figures.table([]), SECTION) == []


def test_two_models_are_compared_over_the_items_of_both():
    a, b = figures.table(scores([1, 0, 0, 0])), figures.table(scores([1, 1, 1])[1:])
    [(task, metric, difference)] = figures.compared(a, b, SECTION)
    assert (task, metric) == ("answer/en-zh", "accuracy")
    assert (difference.num_items, difference.a, difference.b) == (2, 0, 1)
    items = figures.item_differences(a, b)
    assert items.column("id").to_pylist() == ["d1", "d2"]
    assert items.column("difference").to_pylist() == [1, 1]


def test_measures_of_one_model_only_are_not_compared():
    a, b = figures.table(scores([1, 0])), figures.table(scores([1, 0], "cer"))
    assert figures.compared(a, b, SECTION) == []
    assert figures.item_differences(a, b).num_rows == 0


def test_what_is_better_depends_on_the_measure():
    assert figures.is_better("accuracy", 0.1)
    assert not figures.is_better("wer", 0.1)
    assert figures.is_better("first_speech_s", -0.1)


def test_scores_keep_their_contract():
    with pytest.raises(ContractError):
        figures.table([{"task": "asr/en", "metric": "cer", "id": None, "form": "ratio", "statistics": [1.0]}])
    assert isinstance(figures.table([]), pa.Table)

from cslm.apps import training_checks
from cslm.apps.pretrain import TASKS
from cslm.apps.training import TrainingConfig


def notes(weights, **tables):
    data = {"units": "units", "weights": weights, **tables}
    config = TrainingConfig.model_validate({"data": data, "output": {"path": "out"}})
    return training_checks.without_effect(config, TASKS)


def test_a_weight_that_changes_nothing_is_told():
    assert notes({}) == []
    assert notes({"asr": 2.0, "answer": 0.0, "mt": 1.0}, parallel_text="parallel_text") == []
    [other] = notes({"answer": 0.4})
    assert other.startswith("data.weights.answer has no effect: this job does not train it")
    assert notes({"mt": 1.0}) == ["data.weights.mt has no effect: data.parallel_text is not given"]

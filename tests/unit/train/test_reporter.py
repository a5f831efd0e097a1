"""What a run records when steps come again."""

import pytest

from cslm.tracking import Run, TrackingSection
from cslm.train.reporter import Reporter, line_of


@pytest.fixture
def run(home):
    return Run.open(TrackingSection(), job="pretrain", output=str(home))


def metrics(loss):
    return {"loss/total": loss, "throughput/tokens_per_s": 1.0}


def test_steps_that_come_again_are_recorded_once(process_group, run):
    """After a resume, and after going back within a run."""
    reporter = Reporter(run.handle, 6, 0)
    for step in (1, 2, 3):
        reporter(step, metrics(step))
    reporter.flush()
    for step in (2, 3, 4):
        reporter(step, metrics(10 * step))
    reporter.close()
    again = Reporter(run.handle, 6, 2)
    for step in (3, 4, 5):
        again(step, metrics(100 * step))
    again.close()
    history = run._client.get_metric_history(run.run_id, "loss/total")
    assert [(point.step, point.value) for point in history] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 500)]


def test_a_line_tells_the_loss_of_every_task():
    told = {"loss/total": 1.5, "loss/mt/en-zh": 3.0, "loss/asr/en": 1.0, "loss/asr/zh": 2.0, "optimizer/grad_norm": 0.5}
    assert line_of(told, ("", "")) == "loss 1.500 (asr 1.500, mt 3.000)  norm 0.5"
    assert line_of({"loss/total": 1.5}, ("", "")) == "loss 1.500"

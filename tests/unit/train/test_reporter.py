"""What a run records when steps come again."""

import pytest

from cslm.tracking import Run, TrackingSection
from cslm.train.reporter import Reporter


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

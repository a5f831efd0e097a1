import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from cslm import storage, tracking
from cslm.apps import job as job_module
from cslm.apps.job import Job, JobConfig, JobProgress, run_job
from cslm.config import Section, group, setting
from cslm.errors import ConfigError, ContractError, CslmError


class WorkSection(Section):
    size: int = setting(1, "how much to do", ge=1)


class Config(JobConfig):
    work: WorkSection = group(WorkSection, "the work")


Body = Callable[[Config, Job], None]


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Callable[..., int]:
    def start_job(body: Body, *argv: str) -> int:
        return run_job("work", Config, body, ["--output.path", str(tmp_path / "out"), *argv])

    return start_job


def raising(error: BaseException) -> Body:
    def body(config: Config, job: Job) -> None:
        assert job.run.run_id
        raise error

    return body


def do_the_work(config: Config, job: Job) -> None:
    """Does some work."""
    if job.finished(config.work.size):
        return
    job.run.log_metrics({"work/done": config.work.size})
    job.complete(config.work.size, {"done": config.work.size})


def status_of(out: Path) -> str:
    run_id = storage.read_json(str(out / "mlflow_run.json"))["run_id"]
    return str(MlflowClient(tracking_uri=tracking.tracking_uri()).get_run(run_id).info.status)


def test_a_finished_job_leaves_a_summary_its_settings_and_a_closed_run(
    start: Callable[..., int], tmp_path: Path
) -> None:
    assert start(do_the_work, "--work.size", "3") == 0
    out = tmp_path / "out"
    summary = storage.read_json(str(out / "summary.json"))
    assert (summary["job"], summary["status"], summary["done"]) == ("work", "done", 3)
    assert summary["mlflow_run_id"] == storage.read_json(str(out / "mlflow_run.json"))["run_id"]
    assert summary["wall_s"] >= 0
    assert storage.read_yaml(str(out / "config.yaml"))["work"] == {"size": 3}
    assert status_of(out) == "FINISHED"
    run = MlflowClient(tracking_uri=tracking.tracking_uri()).get_run(summary["mlflow_run_id"])
    assert run.data.params["work.size"] == "3"


def test_the_same_command_again_finds_all_done_and_another_one_does_not(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(do_the_work) == 0
    before = (tmp_path / "out" / "summary.json").read_bytes()
    capsys.readouterr()
    assert start(do_the_work) == 0
    assert "work: finished before, nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.json").read_bytes() == before
    assert start(do_the_work, "--work.size", "2") == 0
    assert storage.read_json(str(tmp_path / "out" / "summary.json"))["done"] == 2


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (CslmError("too many rejects"), 1, "FAILED"),
        (ContractError("table units does not keep its contract"), 2, "FAILED"),
        (ConfigError(["a: wrong", "b: wrong too"]), 2, "FAILED"),
        (RuntimeError("CUDA error"), 1, "FAILED"),
        (KeyboardInterrupt(), 130, "KILLED"),
    ],
)
def test_each_way_to_end_has_its_exit_code_and_closes_the_run(
    error: BaseException, code: int, status: str, start: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert start(raising(error)) == code
    assert str(error) in capsys.readouterr().err
    assert status_of(tmp_path / "out") == status
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_storage_that_fails_is_told_in_one_sentence_and_a_fault_of_ours_with_its_place(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(raising(OSError(errno.ENOSPC, "No space left on device", "/disk/out"))) == 1
    told = capsys.readouterr().err
    assert "storage must answer and have room" in told
    assert "No space left on device: /disk/out" in told
    assert "Traceback" not in told
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), ConnectionError("no cluster")):
        assert start(raising(error)) == 1
        told = capsys.readouterr().err
        assert "storage must answer" not in told
        assert "Traceback" in told


def test_the_end_is_told_even_when_the_tracking_store_fails_too(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: tracking.Run, status: str) -> None:
        raise RuntimeError("database or disk is full")

    monkeypatch.setattr(tracking.Run, "finish", full)
    assert start(raising(CslmError("what went wrong"))) == 1
    told = capsys.readouterr().err
    assert "what went wrong" in told
    assert "database or disk is full" in told
    assert "Traceback" not in told


def test_a_bad_config_ends_with_two_before_anything_is_made(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(do_the_work, "--work.size", "0", "--work.sise", "1", "--cluster.num_cpus", "many") == 2
    told = capsys.readouterr().err
    for path in ("work.size", "work.sise", "cluster.num_cpus"):
        assert f"{path}: " in told
    assert list(tmp_path.iterdir()) == []


def test_a_missing_output_is_told_by_its_dotted_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("work", Config, do_the_work, []) == 2
    assert "output.path: required, not given" in capsys.readouterr().err


def test_help_tells_what_the_job_does_and_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_job("work", Config, do_the_work, ["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "usage: jobs/work.py" in text
    assert "Does some work." in text
    for path in ("--output.path", "--cluster.address", "--tracking.experiment", "--work.size"):
        assert path in text


def test_no_run_is_opened_for_a_job_that_needs_none(start: Callable[..., int], tmp_path: Path) -> None:
    assert start(lambda config, job: None) == 0
    assert not (tmp_path / "out" / "mlflow_run.json").exists()


def test_an_unfinished_or_foreign_summary_is_not_taken_for_a_result(tmp_path: Path) -> None:
    job = Job("work", Config.model_validate({"output": {"path": str(tmp_path)}}), str(tmp_path))
    assert not job.finished("key")
    for summary in ({"status": "running", "key": "x"}, {"status": "done"}, {"status": "done", "key": "x"}):
        storage.write_json(str(tmp_path / "summary.json"), summary)
        assert not job.finished("key")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(job_module.time, "monotonic", lambda: self.now_s)


def lines_of(monkeypatch: pytest.MonkeyPatch, done: float, updates: list[tuple[float, float, str]]) -> list[str]:
    """The lines that progress prints off a terminal; an update is (seconds passed, amount, note)."""
    clock, out = Clock(monkeypatch), io.StringIO()
    console = Console(file=out, force_terminal=False, soft_wrap=True, width=80)
    with JobProgress(console, "speaking", 1000, "utterances", done) as progress:
        for passed_s, amount, note in updates:
            clock.now_s += passed_s
            progress.update(amount, note)
    return out.getvalue().splitlines()


def test_off_a_terminal_progress_is_a_plain_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(monkeypatch, 0, [(1, 10, "")] * 25)
    assert lines == [
        "speaking: 100/1,000 utterances, 10.0/s, 1:30 left",
        "speaking: 200/1,000 utterances, 10.0/s, 1:20 left",
    ]


def test_what_was_done_before_counts_for_the_total_but_not_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(monkeypatch, 500, [(100, 100, "40 audio s/s")]) == [
        "speaking: 600/1,000 utterances, 1.0/s 40 audio s/s, 6:40 left"
    ]


def test_long_times_show_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines_of(monkeypatch, 0, [(10, 0.1, "")])
    assert line.endswith(", 27:46:30 left")


def test_on_a_terminal_progress_is_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with JobProgress(console, "speaking", 10, "utterances") as progress:
        progress.update(10, "done")
    text: Any = out.getvalue()
    assert "speaking" in text
    assert "10/10 utterances" in text

"""What every job does the same way: settings, tracking run, progress, summary, exit code.

A job's own module gives a config class and a body; `run_job` gives it the behaviour that users can rely on in all of
them. Running the same command again always is safe: the body asks what is done already.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cslm import storage
from cslm.apps import provenance
from cslm.cluster import ClusterSection
from cslm.config import REQUIRED, Section, fingerprint, flatten, group, parse, setting, to_yaml
from cslm.errors import EXIT_DONE, EXIT_FAILED, CslmError
from cslm.tracking import Run, TrackingSection

# `output.path/summary.json` is what scripts read to know how a job ended.
SUMMARY = "summary.json"
_PLAIN_LINE_EVERY_S = 10.0
_LOG_WIDTH = 120


class OutputSection(Section):
    """Where the results go."""

    path: str = setting(REQUIRED, "folder or URI of the results; the same path again continues an interrupted job")


class JobConfig(Section):
    """The sections that every job has."""

    output: OutputSection = group(OutputSection, "where the results go")
    cluster: ClusterSection = group(ClusterSection, "which Ray cluster does the work")
    tracking: TrackingSection = group(TrackingSection, "where runs are recorded")


ConfigT = TypeVar("ConfigT", bound=JobConfig)


class JobProgress:
    """Progress with rate and time left: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console, label: str, total: float, unit: str, done: float = 0) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._start_done = self._done = done
        self._started_s = self._last_line_s = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(label, total=total, completed=int(done), rate="")

    def __enter__(self) -> "JobProgress":
        if self._bar:
            self._bar.start()
        return self

    def update(self, amount: float, note: str = "") -> None:
        """Count `amount` more units as done; `note` stands behind the rate."""
        self._done += amount
        now = time.monotonic()
        rate = (self._done - self._start_done) / max(now - self._started_s, 1e-9)
        text = f"{self._done:,.0f}/{self._total:,.0f} {self._unit}, {rate:,.1f}/s {note}".rstrip()
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=text)
        elif now - self._last_line_s >= _PLAIN_LINE_EVERY_S:
            self._last_line_s = now
            left_s = (self._total - self._done) / rate if rate else 0.0
            self._console.print(f"{self._label}: {text}, {_clock(left_s)} left", highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


class Job:
    """A running job as its body sees it."""

    def __init__(self, name: str, config: JobConfig, output: str) -> None:
        self.name = name
        self.output = output
        self.console = Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            # A log is as wide as what is written to it: at 80 columns names in tables would be cut.
            self.console.width = _LOG_WIDTH
        self._config = config
        self._run: Run | None = None
        self._started_s = time.time()

    @property
    def run(self) -> Run:
        """The tracking run, opened at first use."""
        if self._run is None:
            self._run = Run.open(self._config.tracking, job=self.name, output=self.output)
            self._run.log_params(flatten(self._config))
            self._run.set_tags(provenance.tags())
            self._run.log_text(to_yaml(self._config), "config.yaml")
        return self._run

    def say(self, text: str) -> None:
        """Tell the user something."""
        self.console.print(text, markup=False)

    def progress(self, label: str, total: float, unit: str, done: float = 0) -> JobProgress:
        """Begin a stretch of long work of `total` units, `done` of which need no doing."""
        return JobProgress(self.console, label, total, unit, done)

    def finished(self, key: Any) -> bool:
        """Whether this output already holds the result for `key` (any JSON value); says so when it does."""
        path = storage.join(self.output, SUMMARY)
        if not storage.exists(path):
            return False
        summary = storage.read_json(path)
        if summary.get("status") != "done" or summary.get("key") != fingerprint(key):
            return False
        self.say(f"{self.name}: finished before, nothing to do ({path})")
        return True

    def limit_rejects(
        self, rejected: int, total: int, limit: float, summary: dict[str, Any], *, rows: str, remedy: str
    ) -> None:
        """Raise CslmError when more than `limit` of `total` rows are rejected; `summary.json` then says `failed`."""
        share = rejected / max(total, 1)
        if share <= limit:
            return
        storage.write_json(storage.join(self.output, SUMMARY), {"job": self.name, "status": "failed", **summary})
        raise CslmError(
            f"max_reject_fraction: at most {limit:.2%} of the {rows} may be rejected, found {share:.2%}; "
            f"{storage.join(self.output, 'rejects')} says why for each. All else is written: {remedy}"
        )

    def complete(self, key: Any, summary: dict[str, Any]) -> None:
        """Write `summary.json`, tell it, and close the run."""
        seconds = round(time.time() - self._started_s, 1)
        document = {"job": self.name, "status": "done", "key": fingerprint(key), "wall_s": seconds, **summary}
        document["mlflow_run_id"] = self.run.run_id
        storage.write_json(storage.join(self.output, SUMMARY), document)
        self.run.log_text(storage.read_text(storage.join(self.output, SUMMARY)), SUMMARY)
        self.run.finish("FINISHED")
        self.say(f"{self.name}: done in {_clock(seconds)}; results in {self.output}")

    def close(self, status: str) -> None:
        """Mark the run as FAILED or KILLED when one was opened."""
        if self._run is not None:
            self._run.finish(status)


def run_job(
    name: str, config_class: type[ConfigT], body: Callable[[ConfigT, Job], None], argv: Sequence[str] | None = None
) -> int:
    """Run a job from its command line and return the exit code: 0 done, 1 failed, 2 bad config or input, 3 refused."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    job: Job | None = None
    try:
        config = parse(config_class, arguments, prog=f"jobs/{name}.py", description=body.__doc__ or "")
        output = storage.absolute(config.output.path)
        storage.make_folder(output)
        storage.write_text(storage.join(output, "config.yaml"), to_yaml(config))
        job = Job(name, config, output)
        body(config, job)
    except CslmError as error:
        _close(job, "FAILED")
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _close(job, "KILLED")
        print(f"{name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and storage.is_fault(error):
            told = str(storage.fault(error))
        else:
            traceback.print_exc()
            told = "failed; the same command goes on from what is done"
        _close(job, "FAILED")
        print(f"{name}: {told}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE


def _close(job: Job | None, status: str) -> None:
    if job is None:
        return
    try:
        job.close(status)
    except Exception as error:
        # It may lie on the disk that is full; how the job ended must be told all the same.
        print(f"{job.name}: the tracking store could not be told of the end: {error}", file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Starts the jobs of a chain as processes of their own, as a user would, and keeps what they cost.

A job knows nothing of the chain: it gets a config file, joins the cluster of this process, and is judged by its exit
code and the summary.json beside its output. A step that is finished with the same config is not started again.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cslm import cluster, storage
from cslm.apps import retrain_process
from cslm.apps.job import SUMMARY, Job
from cslm.apps.retrain_settings import ROOT
from cslm.cluster import ClusterSection
from cslm.config import fingerprint
from cslm.errors import EXIT_DONE, CslmError
from cslm.languages import budget
from cslm.languages.budget import BudgetSection, Spent
from cslm.lm.prompts import PROMPTS_VARIABLE

_RECORD, _SPENT = "steps.json", "spent.json"
_LAST_LINES = 15
_LOOK_EVERY_S = 10.0


class StepFailed(CslmError):
    """A job of the chain did not end well."""


class OverBudget(CslmError):
    """A run has reached a limit of its budget."""


class Commands:
    """The jobs of one run, in its folder."""

    def __init__(
        self, folder: str, job: Job, section: ClusterSection, limits: BudgetSection, environment: Mapping[str, str]
    ) -> None:
        self._folder, self._job, self._section, self._limits = folder, job, section, limits
        self._variables = dict(environment)
        self._counted_s, self._num_gpus = time.monotonic(), 0.0
        record = storage.join(folder, _SPENT)
        self.spent = Spent(**storage.read_json(record)) if storage.exists(record) else Spent()

    def run(self, name: str, program: Sequence[str], document: Mapping[str, Any], output: str) -> dict[str, Any]:
        """Bring a job to its end and return its summary. Raises StepFailed, or OverBudget when a limit is reached."""
        # Whose part it is in tracking changes nothing of what it makes.
        made_of = {name: value for name, value in document.items() if name != "tracking"}
        settings = fingerprint([list(program), made_of])
        # Beside the output: what is made of a language's data is done for every run.
        record, path = storage.join(storage.parent(output), _RECORD), storage.join(output, SUMMARY)
        known = storage.read_json(record) if storage.exists(record) else {}
        summary = _done(path)
        if summary is not None and known.get(name) == {"settings": settings, "key": summary["key"]}:
            self._job.say(f"{name}: finished before")
            return summary
        config = storage.join(self._folder, "configs", f"{name.replace(' ', '-')}.yaml")
        # JSON is YAML, and jobs read the file wherever storage is.
        storage.write_json(config, document)
        self._start(name, [*program, "--config", config])
        summary = _done(path)
        if summary is None:
            raise StepFailed(f"{name}: must leave a {SUMMARY} with status done in {output}, found none")
        # Read anew: it may have been long.
        known = storage.read_json(record) if storage.exists(record) else {}
        storage.write_json(record, {**known, name: {"settings": settings, "key": summary["key"]}})
        return summary

    def _start(self, name: str, command: Sequence[str]) -> None:
        self._connect()
        self._num_gpus = cluster.num_gpus()
        if budget.left_s(self.spent, self._num_gpus, self._limits) <= 0:
            raise OverBudget(f"{name}: the budget is spent: {budget.told(self.spent, self._limits)}; raise it to go on")
        self._job.console.rule(name, align="left")
        self._job.say(f"$ {' '.join(command)}")
        environment = {**os.environ, **self._variables, **cluster.joining(), "PYTHONUNBUFFERED": "1"}
        self._counted_s = time.monotonic()
        try:
            code, said, stopped = retrain_process.run(
                command, environment, lambda line: self._job.say(f"  {line}"), self._is_over, _LOOK_EVERY_S
            )
        finally:
            self._count()
        log = storage.join(self._folder, "logs", f"{name.replace(' ', '-')}.txt")
        storage.write_text(log, "".join(f"{line}\n" for line in said))
        if stopped:
            raise OverBudget(
                f"{name}: stopped by the budget: {budget.told(self.spent, self._limits)}; raise it to go on"
            )
        if code != EXIT_DONE:
            last = "\n".join(f"  {line}" for line in list(said)[-_LAST_LINES:])
            raise StepFailed(f"{name}: must end with exit code 0, found {code}; its last lines ({log}):\n{last}")

    def _connect(self) -> None:
        """Join or start the cluster, and stay the one who decides what a signal to end does: Ray sets its own."""
        handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
        cluster.connect(self._section)
        for one, handler in handlers.items():
            signal.signal(one, handler)

    def _is_over(self) -> bool:
        """Whether the budget is spent, by the GPUs that the cluster has now: it grows and shrinks while a step runs."""
        self._num_gpus = cluster.num_gpus()
        self._count()
        return budget.left_s(self.spent, self._num_gpus, self._limits) <= 0

    def _count(self) -> None:
        """Add what was spent since the last look, and keep it: this process may be killed.

        The cluster is not asked: at the end of a step that was interrupted it may be gone, and would not answer.
        """
        now_s = time.monotonic()
        self.spent = self.spent.plus(now_s - self._counted_s, self._num_gpus)
        self._counted_s = now_s
        storage.write_json(storage.join(self._folder, _SPENT), self.spent.__dict__)


def python(*arguments: str) -> list[str]:
    """The command line of a launcher or module of the platform."""
    return [sys.executable, *(("-P",) if arguments[0] != "-m" else ()), *arguments]


def launcher(job: str) -> list[str]:
    """The command line of a job of jobs/."""
    return python(storage.join(ROOT, "jobs", f"{job}.py"))


def variables(own_prompts: str | None) -> dict[str, str]:
    """What jobs get in their environment: where the platform lies, and the folder of prompts that cards bring."""
    # Modules of the platform without a launcher are found by this; launchers find it by themselves. What the user has
    # there (a tokenizer of their own) stays.
    given = os.environ.get("PYTHONPATH")
    found = {"PYTHONPATH": os.pathsep.join([storage.join(ROOT, "platform"), *([given] if given else [])])}
    return {**found, PROMPTS_VARIABLE: own_prompts} if own_prompts else found


def _done(path: str) -> dict[str, Any] | None:
    if not storage.exists(path):
        return None
    summary: dict[str, Any] = storage.read_json(path)
    return summary if summary.get("status") == "done" else None

"""`--every`: a process that stays and starts the job at its times, each time as a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from cslm import storage
from cslm.apps import keeper
from cslm.apps.job import Job
from cslm.apps.retrain_settings import ROOT, Config
from cslm.errors import EXIT_DONE, EXIT_REFUSED, ConfigError
from cslm.languages import schedule

_LOOK_EVERY_S = 1.0
# What a tick is not told, as it would stay in turn.
_OWN = ("every", "print_systemd", "plan", "rollback")
_PASSED_ON = ("CSLM_HOME", "MLFLOW_TRACKING_URI")
_running: list["subprocess.Popen[bytes]"] = []


def command_of(config: Config, home: str) -> list[str]:
    """The command of one tick: the settings of this process lie beside its output, and are given as that file."""
    file = storage.join(home, "tick.yaml")
    document = {name: value for name, value in config.model_dump(mode="json").items() if name not in _OWN}
    storage.write_json(file, document)
    return [sys.executable, "-P", storage.join(ROOT, "jobs", "retrain.py"), "--config", file]


def stay(config: Config, job: Job) -> None:
    """Run ticks at the times of `every` until this process is ended; then the tick that runs is ended too."""
    assert config.every is not None
    command = command_of(config, job.output)
    scheduler = schedule.opened(config.every, config.schedule, job.output, "cslm.apps.retrain_schedule:tick", command)
    due = scheduler.get_jobs()[0].next_run_time
    job.say(f"every {config.every!r} ({config.schedule.timezone}): {shlex.join(command)}")
    job.say(_told(due) + (", missed: made up for now" if due.timestamp() < time.time() else ""))
    schedule.when_ended(scheduler, lambda due: job.say(_told(due)))
    scheduler.resume()
    try:
        while True:
            time.sleep(_LOOK_EVERY_S)
    finally:
        # Not shut down: a time that came meanwhile would count as kept by a scheduler that can run nothing any more.
        scheduler.pause()
        for process in list(_running):
            process.send_signal(signal.SIGTERM)
            process.wait()


def _told(due: datetime) -> str:
    return f"next: {due:%Y-%m-%d %H:%M %Z}"


def tick(command: Sequence[str]) -> None:
    """One tick. What it says goes to where this process writes; how it ended stands in summary.json."""
    process = subprocess.Popen(command, preexec_fn=keeper.follow_parent)
    _running.append(process)
    try:
        code = process.wait()
    finally:
        _running.remove(process)
    if code not in (EXIT_DONE, EXIT_REFUSED):
        print(f"retrain: the tick ended with exit code {code}; the next one goes on from there", file=sys.stderr)


def print_systemd(config: Config, home: str) -> None:
    """Print units for systemd. Raises ConfigError without times."""
    if config.every is None:
        raise ConfigError("every: required for --print-systemd, not given ('0 3 * * 1' is Mondays at three)")
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    command = command_of(config, home)
    print(schedule.systemd(config.every, config.schedule, "cslm-retrain", command, os.getcwd(), variables), end="")

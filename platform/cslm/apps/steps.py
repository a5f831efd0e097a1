"""Jobs that are submitted to a local Ray cluster one behind the other, as a user would submit them to any cluster.

Nothing here knows a job's insides. A step is a command line for `ray job submit`, and what it did is read from the
`summary.json` beside its output. A step that is finished with the same code and settings is not submitted again; every
other one is, with all behind it, and goes on from what it has, as all jobs do.
"""

import contextlib
import hashlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from rich.console import Console

from cslm import storage
from cslm.apps import keeper, provenance
from cslm.apps.local_cluster import LocalCluster
from cslm.config import Section, fingerprint, parse
from cslm.errors import EXIT_DONE, ConfigError, CslmError

_RECORD = "steps.json"
_WAIT_FOR_OTHER_S = 30.0
_INTERRUPTED = 130
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Bars of libraries, drawn for a terminal, and Ray's word on what the heading has said.
_NOISE = re.compile(r"\d+%\|.*\|.*(it/s|s/it|\?it)|job_manager\.py:\d+|^Running entrypoint for job ")

SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class Step:
    """One job. Where its results lie is told by its config, or by `folder` where an argument overrules that."""

    name: str
    program: tuple[str, ...]
    config: str
    arguments: tuple[str, ...] = ()
    folder: str | None = None

    @property
    def entrypoint(self) -> list[str]:
        """The command that the cluster runs."""
        return [*self.program, "--config", self.config, *self.arguments]


class Steps:
    """Steps in their order, which work below one folder; `output` keeps what is known of them."""

    def __init__(self, steps: Sequence[Step], *, home: str, output: str, root: str, console: Console) -> None:
        self._steps = steps
        self._home = home
        self._output = output
        self._root = root
        self._console = console

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def to_do(self) -> list[Step]:
        """The first step that is not known to be finished with this code and these settings, and all behind it."""
        record = self._record()
        for number, step in enumerate(self._steps):
            known, summary = record.get(step.name), self.summary(step)
            if not known or not summary or (known["settings"], known["key"]) != (self._settings(step), summary["key"]):
                return list(self._steps[number:])
        return []

    def run(self, what: str, cluster: Callable[[], LocalCluster] = LocalCluster) -> tuple[int, list[str]]:
        """Submit what is left to do to a cluster of this machine, up to the first step that fails.

        Gives its exit code, or that of success, and the names of the steps that were to do.
        """
        to_do = self.to_do()
        names = [step.name for step in to_do]
        if not to_do:
            self._console.print(f"{what}: all {len(self._steps)} steps finished before, nothing to do ({self._output})")
            return EXIT_DONE, names
        self._console.print(f"starting a Ray cluster on this machine for {len(to_do)} of {len(self._steps)} steps")
        with cluster() as started:
            for step in to_do:
                code = self._submit(started, step)
                if code != EXIT_DONE:
                    told = f"{what}: {step.name} ended with exit code {code}; the same command goes on from here"
                    self._console.print(told)
                    return code, names
        return EXIT_DONE, names

    def _submit(self, cluster: LocalCluster, step: Step) -> int:
        self._console.rule(f"{self._steps.index(step) + 1}/{len(self._steps)} {step.name}", align="left")
        settings, started_s = self._settings(step), time.monotonic()
        code = submit(cluster, step.name, step.entrypoint, home=self._home, root=self._root, console=self._console)
        if code == EXIT_DONE:
            self._note(step, settings, round(time.monotonic() - started_s, 1))
        return code

    def summary(self, step: Step) -> dict[str, Any] | None:
        """The `summary.json` of a finished step."""
        path = storage.join(self.folder(step), "summary.json")
        if not storage.exists(path):
            return None
        summary: dict[str, Any] = storage.read_json(path)
        return summary if summary.get("status") == "done" else None

    def folder(self, step: Step) -> str:
        """The folder of a step's results."""
        if step.folder:
            return step.folder
        return storage.join(self._home, str(storage.read_yaml(f"{self._root}/{step.config}")["output"]["path"]))

    def walls_s(self) -> dict[str, float]:
        """Seconds that each step took when it did its work."""
        record = self._record()
        return {step.name: record[step.name]["wall_s"] for step in self._steps}

    def _note(self, step: Step, settings: str, wall_s: float) -> None:
        summary = self.summary(step)
        if summary is None:
            raise CslmError(
                f"{step.name} must leave a summary.json with status done in {self.folder(step)}, found none"
            )
        record = self._record()
        known = record.get(step.name, {})
        if known.get("key") != summary["key"]:
            known = {"key": summary["key"], "wall_s": wall_s}
        record[step.name] = known | {"settings": settings}
        storage.write_json(storage.join(self._output, _RECORD), record)

    def _record(self) -> dict[str, Any]:
        path = storage.join(self._output, _RECORD)
        return dict(storage.read_json(path)) if storage.exists(path) else {}

    def _settings(self, step: Step) -> str:
        """Fingerprint of what a step's result may depend on: its command line, its config file, and any of the code."""
        digest = hashlib.sha256(json.dumps(step.entrypoint).encode())
        folders = (f"{self._root}/{folder}" for folder in ("platform/cslm", "schemas", "jobs"))
        code = [file for folder in folders for file in storage.list_files(folder)]
        code = [file for file in code if file.endswith(".py") or "/schemas/" in file]
        for file in [f"{self._root}/{step.config}", *code]:
            digest.update(file.removeprefix(self._root).encode())
            digest.update(storage.read_bytes(file))
        return fingerprint(digest.hexdigest())


def submit(
    cluster: LocalCluster, name: str, entrypoint: Sequence[str], *, home: str, root: str, console: Console
) -> int:
    """Submit one job that works below `home` with the code in `root`, show what it says, and return its exit code."""
    console.print(f"$ ray job submit --working-dir . -- {' '.join(entrypoint)}", style="bold")
    env = {"CSLM_HOME": home, "MLFLOW_TRACKING_URI": store(home)}
    if commit := provenance.commit_of_code():
        env[provenance.COMMIT_VARIABLE] = commit
    if entrypoint[0] == "python":
        env["PYTHONPATH"] = "platform"

    def say(line: str) -> None:
        plain = _COLOUR.sub("", line)
        if plain.strip() and not _NOISE.search(plain):
            console.print(f"  {plain}", style="dim")

    return cluster.submit(name, entrypoint, working_dir=root, env=env, say=say)


def command(
    name: str, config_class: type[SectionT], body: Callable[[SectionT, Console], int], argv: Sequence[str] | None
) -> int:
    """Run `python -m cslm.apps.<name>` from a command line and return its exit code."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        config = parse(config_class, arguments, prog=f"python -m cslm.apps.{name}", description=body.__doc__ or "")
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, _interrupt)
        if getattr(config, "stop_with_parent", False):
            keeper.follow_parent()
        return body(config, console)
    except CslmError as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED


def require_configs(root: str, paths: Sequence[str]) -> None:
    """Raise ConfigError that names every config file which is not there."""
    missing = [path for path in paths if not storage.exists(f"{root}/{path}")]
    if missing:
        raise ConfigError(
            [f"configs: every job must have a config of the name, found no {root}/{path}" for path in missing]
        )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def store(home: str) -> str:
    """The tracking store of the jobs that work below a folder."""
    return f"sqlite:///{home}/mlflow.db"


@contextlib.contextmanager
def alone(what: str, folder: str, console: Console) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go of it however the process ends.

    Raises CslmError when another process holds it for longer than it takes to stop.
    """
    # An abstract socket: its name exists as long as the process that bound it.
    with socket.socket(socket.AF_UNIX) as claim:
        give_up_s = time.monotonic() + _WAIT_FOR_OTHER_S
        waiting = False
        while True:
            try:
                claim.bind(f"\0cslm-{what}-{fingerprint(folder)}")
                break
            except OSError as error:
                if time.monotonic() > give_up_s:
                    raise CslmError(
                        f"one {what} at a time may work in {folder}, found another one running: stop it, or wait for it"
                    ) from error
                if not waiting:
                    console.print(f"another {what} works in this folder; waiting for its end")
                waiting = True
                time.sleep(0.5)
        yield

"""The whole way on one machine, each step submitted to a local Ray cluster: corpus, fit_tokenizer, tokenize, align,
pretrain, sft, decoder, evaluate.

Nothing here knows a job's insides. A step is a command line given to `ray job submit`, as a user would give it to a
cluster, and what it did is read from the `summary.json` beside its output. A step that is finished with the same code
and settings is not submitted again; every other one is, and goes on from what it has, as all jobs do.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from cslm import storage
from cslm.apps import demo_report, keeper, provenance
from cslm.apps.local_cluster import LocalCluster
from cslm.config import Section, fingerprint, group, parse, setting
from cslm.errors import EXIT_DONE, ConfigError, CslmError

ROOT = str(Path(__file__).resolve().parents[3])
_RECORD = "steps.json"
_WAIT_FOR_OTHER_S = 30.0
_INTERRUPTED = 130
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Bars of libraries, drawn for a terminal, and Ray's word on what the heading has said.
_NOISE = re.compile(r"\d+%\|.*\|.*(it/s|s/it|\?it)|job_manager\.py:\d+|^Running entrypoint for job ")


class DemoOutputSection(Section):
    """Where the demo's results go."""

    path: str = setting("runs/demo", "folder of all that the demo makes; the same folder again continues")


class Config(Section):
    """Settings of the demo; those of its jobs lie in jobs/configs/<job>/<configs>.yaml."""

    output: DemoOutputSection = group(DemoOutputSection, "where the results go")
    configs: str = setting("demo", "name of the config file that every job is given")
    stop_with_parent: bool = setting(False, "stop when the process that started the demo is gone, as `make demo` wants")


@dataclass(frozen=True)
class Step:
    """One job of the demo. Where its results lie is told by its config."""

    name: str
    program: tuple[str, ...]
    config: str

    @property
    def entrypoint(self) -> list[str]:
        """The command that the cluster runs."""
        return [*self.program, "--config", self.config]

    def output(self, home: str) -> str:
        """The folder of the step's results, below the demo's folder `home`."""
        return storage.join(home, storage.read_yaml(f"{ROOT}/{self.config}")["output"]["path"])


def steps_of(config: Config) -> list[Step]:
    """The demo's steps in order."""
    corpus = Step(
        "corpus", ("python", "-m", "cslm.apps.demo_corpus"), f"jobs/configs/demo_corpus/{config.configs}.yaml"
    )
    jobs = ("fit_tokenizer", "tokenize", "align", "pretrain", "sft", "decoder", "evaluate")
    return [corpus, *(Step(job, (f"jobs/{job}.py",), f"jobs/configs/{job}/{config.configs}.yaml") for job in jobs)]


def demo(config: Config, console: Console) -> int:
    """From nothing to a trained and measured speech language model, by the jobs on a Ray cluster of this machine.

    Ends with a table and summary.json. The same command again goes on where it was stopped.
    """
    started_s = time.monotonic()
    output = storage.absolute(config.output.path)
    steps = steps_of(config)
    missing = [step.config for step in steps if not storage.exists(f"{ROOT}/{step.config}")]
    if missing:
        raise ConfigError(
            [f"configs: every job must have a config of the name, found no {ROOT}/{path}" for path in missing]
        )
    with _alone(output, console):
        to_do = _to_do(steps, output)
        if to_do:
            console.print(f"starting a Ray cluster on this machine for {len(to_do)} of {len(steps)} steps")
            with LocalCluster() as cluster:
                for step in to_do:
                    code = _run_step(cluster, step, steps, output, console)
                    if code != EXIT_DONE:
                        console.print(
                            f"demo: {step.name} ended with exit code {code}; the same command goes on from here"
                        )
                        return code
        else:
            console.print(f"demo: all {len(steps)} steps finished before, nothing to do ({output})")
        _close(steps, output, console, time.monotonic() - started_s, ran=[step.name for step in to_do])
    return EXIT_DONE


def _run_step(cluster: LocalCluster, step: Step, steps: Sequence[Step], output: str, console: Console) -> int:
    number = steps.index(step) + 1
    console.rule(f"{number}/{len(steps)} {step.name}", align="left")
    console.print(f"$ ray job submit --working-dir . -- {' '.join(step.entrypoint)}", style="bold")
    env = {"CSLM_HOME": output, "MLFLOW_TRACKING_URI": _store(output)}
    if commit := provenance.commit_of_code():
        env[provenance.COMMIT_VARIABLE] = commit
    if step.program[0] == "python":
        env["PYTHONPATH"] = "platform"
    settings, started_s = _settings(step), time.monotonic()

    def say(line: str) -> None:
        plain = _COLOUR.sub("", line)
        if plain.strip() and not _NOISE.search(plain):
            console.print(f"  {plain}", style="dim")

    code = cluster.submit(step.name, step.entrypoint, working_dir=ROOT, env=env, say=say)
    if code == EXIT_DONE:
        summary = _summary(output, step)
        if summary is None:
            raise CslmError(
                f"{step.name} must leave a summary.json with status done in {step.output(output)}, found none"
            )
        record = _record(output)
        known = record.get(step.name, {})
        if known.get("key") != summary["key"]:
            known = {"key": summary["key"], "wall_s": round(time.monotonic() - started_s, 1)}
        record[step.name] = known | {"settings": settings}
        storage.write_json(storage.join(output, _RECORD), record)
    return code


def _to_do(steps: Sequence[Step], output: str) -> list[Step]:
    """The first step that is not known to be finished with this code and these settings, and all behind it."""
    record = _record(output)
    for number, step in enumerate(steps):
        known, summary = record.get(step.name), _summary(output, step)
        if not known or not summary or (known["settings"], known["key"]) != (_settings(step), summary["key"]):
            return list(steps[number:])
    return []


def _record(output: str) -> dict[str, Any]:
    path = storage.join(output, _RECORD)
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _summary(output: str, step: Step) -> dict[str, Any] | None:
    path = storage.join(step.output(output), "summary.json")
    if not storage.exists(path):
        return None
    summary: dict[str, Any] = storage.read_json(path)
    return summary if summary.get("status") == "done" else None


def _settings(step: Step) -> str:
    """Fingerprint of all that a step's result may depend on: its command line, its config file, and any of the code."""
    digest = hashlib.sha256(json.dumps(step.entrypoint).encode())
    code = [file for folder in ("platform/cslm", "schemas", "jobs") for file in storage.list_files(f"{ROOT}/{folder}")]
    for file in [f"{ROOT}/{step.config}", *(file for file in code if file.endswith(".py") or "/schemas/" in file)]:
        digest.update(file.removeprefix(ROOT).encode())
        digest.update(storage.read_bytes(file))
    return fingerprint(digest.hexdigest())


def _close(steps: Sequence[Step], output: str, console: Console, wall_s: float, ran: Sequence[str]) -> None:
    record = _record(output)
    summaries = {step.name: _summary(output, step) or {} for step in steps}
    walls_s = {step.name: record[step.name]["wall_s"] for step in steps}
    path = storage.join(output, "summary.json")
    if ran or not storage.exists(path):
        document = {"job": "demo", "status": "done", "mlflow": _store(output), "last_run_wall_s": round(wall_s, 1)}
        storage.write_json(path, document | {"last_run_steps": list(ran)} | demo_report.collect(summaries, walls_s))
    console.rule(align="left")
    demo_report.show(storage.read_json(path), console)
    console.print(f"this run took {wall_s:,.0f} s; all figures: {path}")
    where = os.path.relpath(output)
    console.print("to see every run and curve: make ui" + (f" DEMO={where}" if where != "runs/demo" else ""))


def _store(output: str) -> str:
    return f"sqlite:///{output}/mlflow.db"


@contextlib.contextmanager
def _alone(output: str, console: Console) -> Iterator[None]:
    """Hold the demo of a folder for this process; the kernel lets go of it however the process ends."""
    # An abstract socket: its name exists as long as the process that bound it.
    with socket.socket(socket.AF_UNIX) as claim:
        give_up_s = time.monotonic() + _WAIT_FOR_OTHER_S
        waiting = False
        while True:
            try:
                claim.bind(f"\0cslm-demo-{fingerprint(output)}")
                break
            except OSError as error:
                if time.monotonic() > give_up_s:
                    raise CslmError(
                        f"one demo at a time may work in {output}, found another one running: stop it, or wait for it"
                    ) from error
                if not waiting:
                    console.print("another demo works in this folder; waiting for its end")
                waiting = True
                time.sleep(0.5)
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from a command line and return its exit code."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        config = parse(Config, arguments, prog="python -m cslm.apps.demo", description=demo.__doc__ or "")
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, _interrupt)
        if config.stop_with_parent:
            keeper.follow_parent()
        return demo(config, console)
    except CslmError as error:
        print(f"demo: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

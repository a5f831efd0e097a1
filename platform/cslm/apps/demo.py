"""The whole way on one machine, each step submitted to a local Ray cluster: corpus, fit_tokenizer, tokenize, align,
pretrain, sft, decoder, evaluate.

Which steps there are is told here; how they are submitted, in `apps.steps`.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cslm import storage
from cslm.apps import demo_report, steps
from cslm.apps.local_cluster import LocalCluster
from cslm.apps.steps import Step, Steps
from cslm.config import Section, group, setting
from cslm.errors import EXIT_DONE

ROOT = str(Path(__file__).resolve().parents[3])


class DemoOutputSection(Section):
    """Where the demo's results go."""

    path: str = setting("runs/demo", "folder of all that the demo makes; the same folder again continues")


class Config(Section):
    """Settings of the demo; those of its jobs lie in jobs/configs/<job>/<configs>.yaml."""

    output: DemoOutputSection = group(DemoOutputSection, "where the results go")
    configs: str = setting("demo", "name of the config file that every job is given")
    stop_with_parent: bool = setting(False, "stop when the process that started the demo is gone, as `make demo` wants")


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
    all_steps = steps_of(config)
    steps.require_configs(ROOT, [step.config for step in all_steps])
    with steps.alone("demo", output, console):
        submitted = Steps(all_steps, home=output, output=output, root=ROOT, console=console)
        code, ran = submitted.run("demo", LocalCluster)
        if code == EXIT_DONE:
            _close(submitted, output, console, time.monotonic() - started_s, ran)
    return code


def _close(submitted: Steps, output: str, console: Console, wall_s: float, ran: Sequence[str]) -> None:
    path = storage.join(output, "summary.json")
    if ran or not storage.exists(path):
        summaries = {step.name: submitted.summary(step) or {} for step in submitted}
        document = {"job": "demo", "status": "done", "mlflow": steps.store(output), "last_run_wall_s": round(wall_s, 1)}
        document |= {"last_run_steps": list(ran)} | demo_report.collect(summaries, submitted.walls_s())
        storage.write_json(path, document)
    console.rule(align="left")
    demo_report.show(storage.read_json(path), console)
    console.print(f"this run took {wall_s:,.0f} s; all figures: {path}")
    where = os.path.relpath(output)
    console.print("to see every run and curve: make ui" + (f" DEMO={where}" if where != "runs/demo" else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from a command line and return its exit code."""
    return steps.command("demo", Config, demo, argv)


if __name__ == "__main__":
    sys.exit(main())

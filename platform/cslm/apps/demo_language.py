"""A fourth language joins a model of three on one machine: what its owner drops, what is refused, what is promoted.

Every act is a job submitted to a local Ray cluster, as a user would submit it to a cluster. What happened is read from
what jobs/retrain.py leaves.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cslm import storage
from cslm.apps import steps
from cslm.apps.local_cluster import LocalCluster
from cslm.config import Section, group, setting
from cslm.demo import drops
from cslm.errors import EXIT_DONE, EXIT_REFUSED, CslmError

ROOT = str(Path(__file__).resolve().parents[3])
_OLD, _NEW = ("en", "zh", "es"), "fr"
_CONFIGS = "jobs/configs"
_RECORD = "acts.json"


class DemoOutputSection(Section):
    """Where the demo's results go."""

    path: str = setting("runs/demo-language", "folder of all that the demo makes; the same folder again continues")


class Config(Section):
    """Settings of the demo; those of its jobs lie in jobs/configs."""

    output: DemoOutputSection = group(DemoOutputSection, "where the results go")
    stop_with_parent: bool = setting(False, "stop when the process that started the demo is gone, as `make` wants")


@dataclass(frozen=True)
class Act:
    """One thing that happens, and how it must end."""

    name: str
    told: str
    command: tuple[str, ...]
    expected: int = EXIT_DONE
    # Of the new language's data: dropped before, with transcripts as they are (False) or shuffled (True).
    drops: bool | None = None


def _job(name: str, config: str) -> tuple[str, ...]:
    return f"jobs/{name}.py", "--config", f"{_CONFIGS}/{name}/{config}.yaml"


_SPOKEN = ("python", "-m", "cslm.apps.demo_corpus", "--config", f"{_CONFIGS}/demo_corpus/demo-language.yaml")
_HEARD = ("--corpus.manifest", "drops/utterances")
_TICK = _job("retrain", "demo")

ACTS = (
    Act("corpus", "four languages are spoken; three are dropped, with their cards", _SPOKEN),
    Act("tokenizer", "units are learned from the three", (*_job("fit_tokenizer", "demo"), *_HEARD)),
    Act("units", "for the voice, the three become units", (*_job("tokenize", "demo"), *_HEARD)),
    Act("voice", "and a voice is learned", _job("decoder", "demo")),
    Act("champion", "first tick: the three languages make a champion", _TICK),
    Act(
        "poisoned",
        "French is dropped with its transcripts shuffled: the tick refuses it",
        _TICK,
        EXIT_REFUSED,
        drops=True,
    ),
    Act(
        "forgetful",
        "French as it should be, trained without the old languages: refused, as they are forgotten",
        (*_TICK, "--replay.share", "0"),
        EXIT_REFUSED,
        drops=False,
    ),
    Act("french", "French with replay of the old languages: promoted", _TICK, drops=False),
)


def demo(config: Config, console: Console) -> int:
    """A champion of three languages, then a card and data of a fourth: refused where they should be, else promoted.

    Ends with a table of all four languages before and after. The same command again goes on with the first act that did
    not end as it must; those before are not played again, whatever has changed since.
    """
    output = storage.absolute(config.output.path)
    record = storage.join(output, _RECORD)
    done: dict[str, Any] = storage.read_json(record) if storage.exists(record) else {}
    todo = [act for act in ACTS if act.name not in done]
    if todo:
        with steps.alone("demo_language", output, console), LocalCluster() as cluster:
            for act in todo:
                _play(act, cluster, output, console)
                runs = _runs(output) if act.command[0] == _TICK[0] else {}
                done[act.name] = {"runs": runs}
                storage.write_json(record, done)
    _show(done, console)
    return EXIT_DONE


def _play(act: Act, cluster: LocalCluster, output: str, console: Console) -> None:
    console.rule(f"{ACTS.index(act) + 1}/{len(ACTS)} {act.told}", align="left")
    if act.drops is not None:
        _drop(output, _NEW, shuffled=act.drops)
    started_s = time.monotonic()
    code = steps.submit(cluster, act.name, act.command, home=output, root=ROOT, console=console)
    if code != act.expected:
        raise CslmError(f"{act.name}: must end with exit code {act.expected}, found {code}; the same command goes on")
    console.print(f"{act.name}: {time.monotonic() - started_s:,.0f} s, exit code {code}")
    if act.name == "corpus":
        for language in _OLD:
            _drop(output, language, shuffled=False)


def _drop(output: str, language: str, *, shuffled: bool) -> None:
    """What the owner of a language does: data to its place, and the card."""
    card = storage.join(output, "cards", f"{language}.yaml")
    wanted = storage.read_bytes(storage.join(ROOT, _CONFIGS, "retrain", "cards", f"{language}.yaml"))
    if not storage.exists(card) or storage.read_bytes(card) != wanted:
        storage.write_bytes(card, wanted)
    marker = storage.join(output, "drops", f"{language}.json")
    if storage.exists(marker) and storage.read_json(marker) == shuffled:
        return  # written again, it would be other data to whoever looks at times of change
    order, seed = (*_OLD, _NEW), 1 if shuffled else None
    drops.bring(storage.join(output, "corpus"), storage.join(output, "drops"), order, language, shuffle_seed=seed)
    storage.write_json(marker, shuffled)


def _runs(output: str) -> dict[str, Any]:
    """The runs of the last tick, with the figures of the candidate and of the champion before it."""
    found: dict[str, Any] = storage.read_json(storage.join(output, "retrain", "summary.json"))["runs"]
    for run in found.values():
        for name in ("evaluate", "evaluate_champion"):
            summary = storage.join(storage.parent(run["report"]), name, "summary.json")
            run[name] = storage.read_json(summary)["metrics"] if storage.exists(summary) else {}
    return found


def _show(done: dict[str, Any], console: Console) -> None:
    console.rule(align="left")
    for act in ACTS:
        for run in done[act.name]["runs"].values():
            console.print(f"{act.name}: {run['ending']}" + (f" as version {run['version']}" if run["version"] else ""))
            for reason in run["reasons"]:
                console.print(f"  {reason}")
            console.print(f"  {run['report']}")
    last = next(iter(done[ACTS[-1].name]["runs"].values()))
    table = Table(title="before and after French", title_justify="left")
    for column in ("measure", "before", "after"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for code in (*_OLD, _NEW):
        for name in (f"asr/{code}/cer", f"answer/{code}-{code}/accuracy"):
            values = [last[one].get(name) for one in ("evaluate_champion", "evaluate")]
            table.add_row(name, *("-" if value is None else f"{value:.1%}" for value in values))
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from a command line and return its exit code."""
    return steps.command("demo_language", Config, demo, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What each part of the method is worth: the demo's recipe trained again with one thing changed, and measured.

Which changes there are is told here, with what the paper saw of them (CSLM, arXiv 2604.11096, ablations); how figures
become its table, in `apps.ablations_report`. Steps are jobs submitted as the demo submits them (`apps.steps`): those of
a variant that its change cannot reach are the demo's own.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cslm import storage
from cslm.apps import ablations_report, provenance, steps
from cslm.apps.ablations_report import Expectation
from cslm.apps.local_cluster import LocalCluster
from cslm.apps.steps import Step, Steps
from cslm.config import Section, group, setting
from cslm.data import units
from cslm.errors import EXIT_DONE, ConfigError
from cslm.tracking import Run, TrackingSection

ROOT = str(Path(__file__).resolve().parents[3])
BASE = "as_it_is"
_JOBS = ("pretrain", "sft", "evaluate")
# CSLM, ablation of the chunk size: seven words, or four.
_CHUNK_WORDS = 7


class DemoSection(Section):
    """The finished demo whose recipe is changed."""

    path: str = setting("runs/demo", "folder of a finished demo; its corpus, units, alignments and decoder are used")
    configs: str = setting("demo", "name of the config files that it was made with")


class OutputSection(Section):
    """Where the results go."""

    path: str | None = setting(None, "folder of the results; the demo's folder `ablations` when not given")


class Config(Section):
    """Settings of the ablations."""

    demo: DemoSection = group(DemoSection, "the finished demo whose recipe is changed")
    output: OutputSection = group(OutputSection, "where the results go")
    questions: int = setting(40, "questions of each pair of languages that every model is asked", ge=1)
    only: list[str] = setting([], "names of the variants to train; all when not given")
    stop_with_parent: bool = setting(False, "stop when the process that started this is gone, as `make` wants")


@dataclass(frozen=True)
class Variant:
    """A change of the recipe: arguments of the two trainings, and what the paper saw of it."""

    name: str
    meaning: str
    pretrain: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()
    expected: tuple[Expectation, ...] = ()


def variants(chunk_words: int, unmerged: str) -> list[Variant]:
    """The paper's ablations and two more; `chunk_words` are those of the recipe, `unmerged` units with repeats."""
    short = max(1, chunk_words * 4 // _CHUNK_WORDS)
    no_mt, no_text = ("--data.weights.mt", "0"), ("--data.weights.text", "0")
    frames = ("--data.units", unmerged)
    return [
        Variant(
            "no_mt",
            "without translation data",
            no_mt,
            no_mt,
            (Expectation("answer/across", "accuracy", -1), Expectation("answer/across", "speech_accuracy", -1)),
        ),
        Variant(
            "full_chain",
            "full instead of interleaved chain",
            sft=("--data.chain.form", "full"),
            expected=(Expectation("answer", "first_speech_s", +1), Expectation("answer", "accuracy", -1)),
        ),
        Variant(
            "short_chunks",
            f"chunks of {short} word{'s' * (short > 1)} instead of {chunk_words}",
            sft=("--data.chain.chunk_words", str(short)),
            expected=(Expectation("answer", "accuracy", -1), Expectation("answer", "asr_er", +1)),
        ),
        Variant(
            "no_question",
            "without the text question",
            sft=("--data.chain.form", "interleaved_no_question"),
            expected=(Expectation("answer/across", "accuracy", -1),),
        ),
        Variant("unmerged", "a unit for every frame, repeats not merged", frames, frames),
        Variant("no_text", "without replay of text", no_text, no_text, (Expectation("text", "perplexity", +1),)),
    ]


def ablations(config: Config, console: Console) -> int:
    """The demo's recipe with one thing changed at a time, same seed and steps, and the paper's table of our figures.

    Needs a finished demo. Every training and evaluation is a run below one parent in the demo's MLflow store. Ends with
    the table, ablations.md and summary.json. The same command again goes on where it was stopped.
    """
    home = storage.absolute(config.demo.path)
    output = storage.absolute(config.output.path) if config.output.path else storage.join(home, "ablations")
    files = {job: f"jobs/configs/{job}/{config.demo.configs}.yaml" for job in _JOBS}
    steps.require_configs(ROOT, list(files.values()))
    folders = {job: str(storage.read_yaml(f"{ROOT}/{file}")["output"]["path"]) for job, file in files.items()}
    _require_demo(home, folders)
    recipe = storage.read_yaml(f"{ROOT}/{files['sft']}")["data"]
    unmerged = storage.join(output, "unmerged", "tokenize")
    chosen = variants(int(recipe.get("chain", {}).get("chunk_words", _CHUNK_WORDS)), unmerged)
    unknown = sorted(set(config.only) - {variant.name for variant in chosen})
    if unknown:
        raise ConfigError([f"only: must name some of {[one.name for one in chosen]}, found {unknown}"])
    chosen = [variant for variant in chosen if not config.only or variant.name in config.only]
    # The jobs are told the same store by `apps.steps`.
    os.environ["MLFLOW_TRACKING_URI"] = steps.store(home)
    with steps.alone("ablations", output, console):
        parent = Run.open(TrackingSection(run_name="ablations"), job="ablations", output=output)
        parent.set_tags(provenance.tags())
        if any("--data.units" in variant.sft for variant in chosen):
            units.write_unmerged(storage.join(home, str(recipe["units"])), unmerged)
        told = _Told(files, folders, output, parent.run_id, config.questions)
        measured = {BASE: told.evaluation(BASE, storage.join(folders["sft"], "model"))}
        all_steps = [measured[BASE]]
        for variant in chosen:
            trainings, measured[variant.name] = told.steps(variant)
            all_steps += [*trainings, measured[variant.name]]
        submitted = Steps(all_steps, home=home, output=output, root=ROOT, console=console)
        code, _ = submitted.run("ablations", LocalCluster)
        if code != EXIT_DONE:
            parent.finish("FAILED")
            return code
        evaluated = {name: submitted.folder(step) for name, step in measured.items()}
        meanings = {BASE: "the recipe as it is"} | {variant.name: variant.meaning for variant in chosen}
        ablations_report.write(
            evaluated, meanings, {variant.name: variant.expected for variant in chosen}, output, parent, console
        )
        parent.finish()
    return EXIT_DONE


@dataclass(frozen=True)
class _Told:
    """What the steps of every variant share."""

    files: dict[str, str]
    folders: dict[str, str]
    output: str
    parent: str
    questions: int

    def steps(self, variant: Variant) -> tuple[list[Step], Step]:
        """The trainings that a change takes, and the evaluation of their model."""
        trainings = []
        start = storage.join(self.folders["pretrain"], "model")
        if variant.pretrain:
            trainings.append(self._step("pretrain", variant.name, variant.pretrain))
            start = storage.join(self._folder("pretrain", variant.name), "model")
        trainings.append(self._step("sft", variant.name, (*variant.sft, "--model.path", start)))
        model = storage.join(self._folder("sft", variant.name), "model")
        tables = variant.sft if "--data.units" in variant.sft else ()
        return trainings, self.evaluation(variant.name, model, tables)

    def evaluation(self, name: str, model: str, tables: Sequence[str] = ()) -> Step:
        """The evaluation of a model: as the demo's, with more questions and nothing that a change does not touch."""
        amounts = ("--evaluate.max_questions", str(self.questions), "--evaluate.max_spoken", "0")
        return self._step("evaluate", name, ("--model.path", model, *amounts, *tables))

    def _step(self, job: str, name: str, arguments: Sequence[str]) -> Step:
        folder = self._folder(job, name)
        told = ("--output.path", folder, "--tracking.parent_run", self.parent, "--tracking.run_name", f"{name} {job}")
        return Step(f"{name}-{job}", (f"jobs/{job}.py",), self.files[job], (*arguments, *told), folder)

    def _folder(self, job: str, name: str) -> str:
        return storage.join(self.output, name, job)


def _require_demo(home: str, folders: dict[str, str]) -> None:
    missing = [
        folder
        for folder in (storage.join(home, folders[job], "model") for job in ("pretrain", "sft"))
        if not storage.exists(folder)
    ]
    if missing:
        raise ConfigError([f"demo.path: must be the folder of a finished demo (make demo), found no {missing[0]}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablations from a command line and return their exit code."""
    return steps.command("ablations", Config, ablations, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What settings of a training cannot be, and which of them change nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cslm import storage
from cslm.data import sources
from cslm.data.sources import DataSection
from cslm.errors import ConfigError
from cslm.lm.examples import TASKS, needs_alignment
from cslm.train.loop import TrainSection, workers

if TYPE_CHECKING:
    from cslm.apps.training import TrainingConfig


def check(config: "TrainingConfig", tasks: Sequence[str]) -> None:
    """Raise ConfigError with all that training cannot do: tables, alignments, start model, workers, held-out split."""
    faults = []
    train, data = config.train, config.data
    if train.rows_per_step < workers(train.num_workers)[1]:
        faults.append(
            f"train.rows_per_step: must be at least train.num_workers ({train.num_workers}), so that every worker has "
            f"a row, found {train.rows_per_step}"
        )
    if not storage.exists(sources.units_folder(data.units)):
        faults.append(f"data.units: must be a units table, found nothing at {storage.absolute(data.units)}")
    for name in ("alignments", "parallel_text", "dialogues"):
        path = getattr(data, name)
        if path and not storage.exists(storage.absolute(path)):
            faults.append(f"data.{name}: must be a table, found nothing at {storage.absolute(path)}")
    given = [task for task in tasks if task != "answer" or data.dialogues]
    given = [task for task in given if task != "s2st" or data.parallel_text]
    if not data.alignments:
        weights = data.weights.model_dump()
        for task in (task for task in given if weights[task] > 0 and needs_alignment(task, data.chain)):
            remedy = "" if task == "spans" else "take data.chain.form full, or "
            faults.append(
                f"data.alignments: {task} needs the times of words, not given; run jobs/align.py on the units, "
                f"{remedy}set data.weights.{task} 0"
            )
    if config.model.path and not storage.exists(storage.join(storage.absolute(config.model.path), "config.json")):
        faults.append(
            f"model.path: must be a Hugging Face model folder, found none at {storage.absolute(config.model.path)}"
        )
    held_out = train.evaluation
    if held_out.split == data.split:
        faults.append(f"train.evaluation.split: must be another than data.split, found {held_out.split} for both")
    if held_out.split is None and (held_out.patience is not None or held_out.final_model == "best"):
        faults.append("train.evaluation.split: early stopping and the best model need a held-out split, found none")
    if faults:
        raise ConfigError(faults)


def without_effect(config: "TrainingConfig", tasks: Sequence[str]) -> list[str]:
    """What was set and changes nothing, a sentence each."""
    return [*_of_training(config.train), *_of_weights(config.data, tasks)]


def _of_training(train: TrainSection) -> list[str]:
    given, notes = train.model_fields_set, []

    def note(name: str, reason: str) -> None:
        if name in given:
            notes.append(f"train.{name} has no effect: {reason}")

    if train.schedule != "wsd":
        note("decay_fraction", f"train.schedule is {train.schedule}, not wsd")
    if train.schedule == "constant":
        note("final_learning_rate_fraction", "train.schedule is constant")
    if train.optimizer != "muon":
        note("muon_learning_rate", f"train.optimizer is {train.optimizer}")
    else:
        note("max_grad_norm", "Muon's updates have a size of their own")
    if train.max_steps is not None:
        note("epochs", "train.max_steps is given")
    if train.evaluation.split is None:
        note("keep_best", "train.evaluation.split is not given")
    return notes


def _of_weights(data: DataSection, tasks: Sequence[str]) -> list[str]:
    weights, notes = data.weights.model_dump(), []
    for task in TASKS:
        if task not in data.weights.model_fields_set or weights[task] == 0:
            continue
        if task not in tasks:
            notes.append(f"data.weights.{task} has no effect: this job does not train it, only {', '.join(tasks)}")
        elif TASKS[task] != "units" and not getattr(data, TASKS[task]):
            notes.append(f"data.weights.{task} has no effect: data.{TASKS[task]} is not given")
    return notes

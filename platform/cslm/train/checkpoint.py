"""Checkpoints of training: every rank's shard in one step folder, complete or not counted.

Ranks write through `ray.train.report`, which merges their folders in storage. A marker that is written after all of
them makes the folder count: what a killed run left half-written has none.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray.train
import torch.distributed as dist

from cslm import storage
from cslm.errors import CheckpointError
from cslm.train.engine import ZeroEngine
from cslm.train.loop import Progress

FOLDER = "checkpoints"
_MARKER = "complete.json"


def step_folder(output: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return storage.join(output, FOLDER, f"step-{step:08d}")


def complete_steps(output: str) -> list[int]:
    """The steps whose checkpoints are complete, ascending."""
    markers = storage.list_files(storage.join(output, FOLDER), f"/{_MARKER}")
    return sorted(int(storage.name(storage.parent(marker)).removeprefix("step-")) for marker in markers)


def saver(output: str, engine: ZeroEngine, identity: dict[str, Any], keep: int) -> Callable[[Progress], None]:
    """A function that saves the state of all ranks; every rank must call it at the same step."""

    def save(progress: Progress) -> None:
        folder = step_folder(output, progress.step)
        with tempfile.TemporaryDirectory() as local:
            engine.save(local, {"progress": asdict(progress)})
            ray.train.report(
                {"step": progress.step},
                checkpoint=ray.train.Checkpoint.from_directory(local),
                checkpoint_dir_name=storage.name(folder),
            )
        dist.barrier()  # every rank's shard is in storage before the marker says so
        if dist.get_rank() == 0:
            marker = {"step": progress.step, "world_size": dist.get_world_size(), **identity}
            storage.write_json(storage.join(folder, _MARKER), marker)
            for old in complete_steps(output)[:-keep]:
                # The marker goes first, so that a folder half deleted does not count.
                storage.remove(storage.join(step_folder(output, old), _MARKER))
                storage.remove(step_folder(output, old))

    return save


def restore(output: str, engine: ZeroEngine, identity: dict[str, Any]) -> Progress:
    """Load the newest complete checkpoint of the same training into the engine; a fresh start when there is none.

    Raises CheckpointError when a checkpoint of this output was made for another vocabulary.
    """
    for step in reversed(complete_steps(output)):
        folder = step_folder(output, step)
        marker = storage.read_json(storage.join(folder, _MARKER))
        require_vocabulary(folder, marker, identity)
        wanted = {"step": step, "world_size": dist.get_world_size(), **identity}
        if marker == wanted:
            with storage.local_folder(folder) as local:
                return Progress(**engine.restore(local)["progress"])
    return Progress()


def require_vocabulary(folder: str, marker: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a checkpoint's marker names the vocabulary of the training that it is for."""
    if marker.get("vocabulary") != identity["vocabulary"]:
        raise CheckpointError(
            f"{folder}: a checkpoint must be for the model's vocabulary {identity['vocabulary']}, found "
            f"{marker.get('vocabulary')}: this output belongs to another model; give another output.path"
        )

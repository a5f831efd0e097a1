"""Checkpoints of training: every rank's fragments in one step folder, complete or not counted.

Each rank copies what it holds to the host, and a thread writes it while training goes on: `rank-00000.safetensors`,
then `rank-00000.json`, which names files with their sizes and what lies in them. A step counts when every rank's JSON
of one and the same attempt is there and all files have their sizes: nobody waits for anybody to make it count.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from cslm import storage
from cslm.errors import CheckpointError
from cslm.train import random_state, tensor_file
from cslm.train.progress import Progress
from cslm.train.resharding import Reshard
from cslm.train.shards import TrainingState

FOLDER = "checkpoints"
FORMAT = 1
_FIRST = "rank-00000.json"

# Gets a step, its folder and what writes this rank's files; has that done in the background, once.
Publish = Callable[[int, str, Callable[[], None]], None]


def step_folder(output: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return storage.join(output, FOLDER, f"step-{step:08d}")


def steps(output: str) -> list[int]:
    """The steps of all folders, complete or not, ascending."""
    folders = storage.list_folder(storage.join(output, FOLDER))[0]
    return sorted(int(name.removeprefix("step-")) for name in folders if name.removeprefix("step-").isdigit())


def complete_steps(output: str) -> list[int]:
    """The steps whose checkpoints are complete, ascending."""
    return [step for step in steps(output) if markers(step_folder(output, step))]


def markers(folder: str) -> list[dict[str, Any]]:
    """What every rank wrote of a complete checkpoint, in order of ranks; empty when it is not complete.

    Raises CheckpointError when it was written in another format.
    """
    files = {storage.name(entry.uri): entry.size for entry in storage.list_entries(folder)}
    if "complete.json" in files:
        raise _other_format(folder, 0)
    if _FIRST not in files:
        return []
    found: list[dict[str, Any]] = [storage.read_json(storage.join(folder, _FIRST))]
    if found[0].get("format") != FORMAT:
        raise _other_format(folder, found[0].get("format"))
    names = [f"rank-{rank:05d}.json" for rank in range(1, found[0]["world_size"])]
    if not files.keys() >= set(names):
        return []
    found += [storage.read_json(storage.join(folder, name)) for name in names]
    whole = all(
        marker["attempt"] == found[0]["attempt"] and files.get(marker["file"]) == marker["bytes"] for marker in found
    )
    return found if whole else []


def _other_format(folder: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"{folder}: a checkpoint must have format {FORMAT}, found {found}: it was written by another version of the "
        "platform; finish the run with that version, or give another output.path"
    )


class Saver:
    """Saves the state of all ranks when it is called; every rank must call it at the same step.

    `score` of a progress is what `keep_best` goes by, less is better; None where there is none. `publish` is told what
    to do in the background; by default a thread does it. `before_it_counts` is called there when this rank's values
    are written and its JSON is not yet.
    """

    def __init__(
        self,
        output: str,
        state: TrainingState,
        identity: Mapping[str, Any],
        *,
        keep_last: int,
        keep_best: int = 0,
        score: Callable[[Progress], float | None] = lambda progress: None,
        publish: Publish | None = None,
        before_it_counts: Callable[[], None] = lambda: None,
        device: torch.device | None = None,
    ) -> None:
        self._output, self._state, self._identity = output, state, dict(identity)
        self._keep_last, self._keep_best, self._score = keep_last, keep_best, score
        self._publish, self._before_it_counts = publish or _in_a_thread(), before_it_counts
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        # Files of an attempt that was cut off never complete those of another.
        attempt = torch.randint(2**62, (1,), generator=_fresh_generator()).to(device or "cpu")
        dist.broadcast(attempt, 0)
        self._attempt = f"{int(attempt):016x}"
        self._host: dict[str, torch.Tensor] = {}
        self._written = threading.Event()
        self._written.set()
        self._error: Exception | None = None

    def __call__(self, progress: Progress) -> None:
        """Copy the state to the host and have it written."""
        # One copy at a time: were storage slower than training, copies would fill the host's memory.
        self.wait()
        self._written.clear()
        folder = step_folder(self._output, progress.step)
        tensors, marker = self._copy(progress)

        def write() -> None:
            # Called again after a fault it must not write what meanwhile is the copy of a later step.
            self._raise()
            try:
                self._write(folder, tensors, marker)
            except Exception as error:
                self._error = error
                raise
            finally:
                self._written.set()

        self._publish(progress.step, folder, write)

    def wait(self) -> None:
        """Wait until this rank's last files are written. Raises what their writing raised."""
        self._written.wait()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _copy(self, progress: Progress) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors: dict[str, torch.Tensor] = {}
        fragments = []
        for part in self._state.parts:
            with part.resident(write=False):
                for fragment in part.fragments():
                    start, values = fragment.start, fragment.values
                    if fragment.replicated:
                        first = values.numel() * self._rank // self._world_size
                        last = values.numel() * (self._rank + 1) // self._world_size
                        start, values = start + first, values[first:last]
                    if not values.numel():
                        continue
                    label = f"{fragment.key}/{fragment.name}"
                    tensors[label] = self._to_host(label, values)
                    fragments.append([fragment.name, fragment.key, start, values.numel()])
        if any(tensor.is_pinned() for tensor in tensors.values()):
            torch.cuda.synchronize()
        marker = {
            "format": FORMAT,
            "attempt": self._attempt,
            "step": progress.step,
            "rank": self._rank,
            "world_size": self._world_size,
            **self._identity,
            "score": self._score(progress),
            "progress": asdict(progress),
            "counters": self._state.counters(),
            "scalars": self._state.scalars(),
            "random": random_state.take(),
            "fragments": fragments,
        }
        return tensors, marker

    def _to_host(self, label: str, values: torch.Tensor) -> torch.Tensor:
        held = self._host.get(label)
        if held is None or held.shape != values.shape or held.dtype != values.dtype:
            held = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._host[label] = held
        held.copy_(values, non_blocking=values.is_cuda)
        return held

    def _write(self, folder: str, tensors: dict[str, torch.Tensor], marker: dict[str, Any]) -> None:
        name = f"rank-{self._rank:05d}"
        entries = [tensor_file.Entry(label, tensor.dtype, tuple(tensor.shape)) for label, tensor in tensors.items()]
        metadata = {"step": str(marker["step"]), "attempt": self._attempt}
        file = f"{name}.safetensors"
        size = tensor_file.write(storage.join(folder, file), entries, tensors.values(), metadata)
        places = tensor_file.offsets(entries, metadata)
        fragments = [
            [*fragment, str(entry.dtype).removeprefix("torch."), place]
            for fragment, entry, place in zip(marker["fragments"], entries, places, strict=True)
        ]
        whole = {**marker, "file": file, "bytes": size, "fragments": fragments}
        self._before_it_counts()
        storage.write_text(storage.join(folder, f"{name}.json"), json.dumps(whole) + "\n")
        if self._rank == 0:
            self._remove_old(marker["step"])

    def _remove_old(self, newest: int) -> None:
        """Delete what is neither among the newest nor among the best; other ranks may still write the newest."""
        scores = {}
        for step in steps(self._output):
            first = storage.join(step_folder(self._output, step), _FIRST)
            if step != newest and storage.exists(first):
                marker = storage.read_json(first)
                if is_same(marker, self._identity) and markers(step_folder(self._output, step)):
                    scores[step] = marker["score"]
        for step in sorted(outdated(scores, self._keep_last, self._keep_best)):
            remove(step_folder(self._output, step))


def outdated(scores: Mapping[int, float | None], keep_last: int, keep_best: int) -> set[int]:
    """The complete steps, with their scores, that need not be kept; less is better."""
    scored = sorted((score, step) for step, score in scores.items() if score is not None)
    return set(scores) - set(sorted(scores)[-keep_last:]) - {step for _, step in scored[:keep_best]}


def remove(folder: str) -> None:
    """Delete a checkpoint; the first rank's JSON goes first, so that a folder half deleted does not count."""
    storage.remove(storage.join(folder, _FIRST))
    storage.remove(folder)


def is_same(marker: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a checkpoint belongs to the training of this identity."""
    return all(marker.get(key) == value for key, value in identity.items())


def restore(
    output: str,
    state: TrainingState,
    identity: Mapping[str, Any],
    *,
    before: int | None = None,
    device: torch.device | None = None,
) -> Progress:
    """Load the newest complete checkpoint of the same training, saved by any number of ranks; fresh when there is none.

    What an interrupted run left incomplete is deleted. `before` a step: newer checkpoints are deleted as well, to go
    back. All ranks must call. Raises CheckpointError for another vocabulary or format.
    """
    rank = dist.get_rank()
    chosen = choose(output, identity, before) if rank == 0 else None
    # One rank chooses: a listing may differ from one moment to the next.
    wanted = torch.tensor([-1 if chosen is None else chosen], device=device)
    dist.broadcast(wanted, 0)
    if int(wanted) < 0:
        return Progress()
    saved = load(step_folder(output, int(wanted)), state)
    if rank < len(saved):
        random_state.put(saved[rank]["random"])
    return Progress(**saved[0]["progress"])


def load(folder: str, state: TrainingState) -> list[dict[str, Any]]:
    """Load one complete checkpoint and return what every rank wrote of it; all ranks must call."""
    saved = markers(folder)
    if not saved:
        raise CheckpointError(f"{folder} must be complete, found files that changed meanwhile; start the run again")
    try:
        state.restore(Reshard(folder, saved), saved[0]["counters"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return saved


def choose(output: str, identity: Mapping[str, Any], before: int | None = None) -> int | None:
    """The newest complete step to go on from; deletes what is not complete and what is not before `before`.

    Raises CheckpointError for another vocabulary or format.
    """
    found = None
    for step in reversed(steps(output)):
        folder = step_folder(output, step)
        saved = markers(folder)
        if saved:
            require_vocabulary(folder, saved[0], identity)
        if not saved or (before is not None and step >= before and is_same(saved[0], identity)):
            remove(folder)
        elif found is None and is_same(saved[0], identity):
            found = step
    return found


def require_vocabulary(folder: str, marker: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a checkpoint's marker names the vocabulary of the training that it is for."""
    if marker.get("vocabulary") != identity["vocabulary"]:
        raise CheckpointError(
            f"{folder}: a checkpoint must be for the model's vocabulary {identity['vocabulary']}, found "
            f"{marker.get('vocabulary')}: this output belongs to another model; give another output.path"
        )


def _fresh_generator() -> torch.Generator:
    """Numbers that no seed of the training repeats, and that do not disturb those that it draws."""
    return torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "little"))


def _in_a_thread() -> Publish:
    pool = ThreadPoolExecutor(1)

    def publish(step: int, folder: str, write: Callable[[], None]) -> None:
        pool.submit(write)

    return publish

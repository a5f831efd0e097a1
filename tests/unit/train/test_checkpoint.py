"""Checkpoints of a plain optimizer on one rank: what counts, what goes, what is refused, and where they may lie."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cslm import storage
from cslm.errors import CheckpointError
from cslm.train import checkpoint
from cslm.train.loop import Progress
from cslm.train.shards import TrainingState
from tests.data import object_store

IDENTITY = {"vocabulary": "v", "packed": "p", "training": "t"}


class Trained:
    """A linear layer with AdamW under the interface of an engine."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.module = nn.Linear(4, 3)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        engine = SimpleNamespace(module=self.module, optimizer=self.optimizer, global_steps=0, skipped_steps=0)
        self.engine, self.state = engine, TrainingState(engine)

    def step(self):
        self.module(torch.randn(5, 4)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.engine.global_steps += 1


def saver(output, trained, **changes):
    return checkpoint.Saver(output, trained.state, IDENTITY, **{"keep_last": 2, **changes})


def save(output, steps, **changes):
    trained = Trained()
    save = saver(output, trained, **changes)
    for step in steps:
        trained.step()
        save(Progress(step=step))
        save.wait()
    return trained


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path)
    else:
        with object_store.running():
            yield f"s3://{object_store.BUCKET}/{tmp_path.name}"  # the objects of earlier servers stay


def test_everything_comes_back_from_disk_and_from_an_object_store(process_group, output):
    trained = save(output, [3])
    draws = [torch.rand(1).item(), np.random.rand(), random.random()]
    trained.step()
    other = Trained(seed=1)
    assert checkpoint.restore(output, other.state, IDENTITY).step == 3
    assert [torch.rand(1).item(), np.random.rand(), random.random()] == draws
    other.step()
    assert other.engine.global_steps == 2
    assert torch.equal(trained.module.weight, other.module.weight)
    assert checkpoint.complete_steps(output) == [3]


def test_a_checkpoint_counts_only_when_all_of_it_is_there(process_group, output):
    save(output, [1, 2])
    folder = checkpoint.step_folder(output, 2)
    file = storage.join(folder, "rank-00000.safetensors")
    whole = storage.read_bytes(file)
    storage.write_bytes(file, whole[:-1])
    assert checkpoint.complete_steps(output) == [1]
    storage.write_bytes(file, whole)
    assert checkpoint.complete_steps(output) == [1, 2]
    storage.remove(storage.join(folder, "rank-00000.json"))
    assert checkpoint.restore(output, Trained().state, IDENTITY).step == 1
    assert checkpoint.steps(output) == [1]  # what was half there is gone


def test_ranks_of_different_attempts_are_not_one_checkpoint(process_group, tmp_path):
    save(str(tmp_path), [1])
    folder = Path(checkpoint.step_folder(str(tmp_path), 1))
    for name in ("rank-00000.json", "rank-00001.json"):
        document = storage.read_json(str(folder / "rank-00000.json")) | {"world_size": 2}
        storage.write_json(str(folder / name), document)
    assert checkpoint.complete_steps(str(tmp_path)) == [1]
    storage.write_json(str(folder / "rank-00001.json"), document | {"attempt": "another"})
    assert checkpoint.complete_steps(str(tmp_path)) == []


def test_the_newest_and_the_best_stay(process_group, tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.4}
    save(str(tmp_path), losses, keep_last=1, keep_best=1, score=lambda progress: losses[progress.step])
    assert checkpoint.complete_steps(str(tmp_path)) == [2, 4, 5]


def test_going_back_takes_the_last_one_before_and_forgets_the_later(process_group, tmp_path):
    save(str(tmp_path), [2, 4, 6], keep_last=9)
    assert checkpoint.restore(str(tmp_path), Trained().state, IDENTITY, before=5).step == 4
    assert checkpoint.complete_steps(str(tmp_path)) == [2, 4]


def test_checkpoints_of_another_training_are_neither_taken_nor_deleted(process_group, tmp_path):
    save(str(tmp_path), [7])
    other = {**IDENTITY, "training": "other"}
    assert checkpoint.restore(str(tmp_path), Trained().state, other).step == 0
    assert checkpoint.complete_steps(str(tmp_path)) == [7]


def test_another_vocabulary_or_format_is_refused_with_the_folder_and_the_way_out(process_group, tmp_path):
    save(str(tmp_path), [1])
    with pytest.raises(CheckpointError, match=r"step-00000001: .* vocabulary w, found v.* another output.path"):
        checkpoint.restore(str(tmp_path), Trained().state, {**IDENTITY, "vocabulary": "w"})
    marker = storage.join(checkpoint.step_folder(str(tmp_path), 1), "rank-00000.json")
    storage.write_json(marker, storage.read_json(marker) | {"format": 9})
    with pytest.raises(CheckpointError, match=r"step-00000001: .* format 1, found 9.* another output.path"):
        checkpoint.restore(str(tmp_path), Trained().state, IDENTITY)


def test_a_model_with_other_parameters_is_refused_by_name(process_group, tmp_path):
    save(str(tmp_path), [1])
    other = Trained()
    other.module.added = nn.Parameter(torch.zeros(2))
    other.optimizer.add_param_group({"params": [other.module.added]})
    with pytest.raises(CheckpointError, match=r"step-00000001: .*none of added"):
        checkpoint.restore(str(tmp_path), TrainingState(other.engine), IDENTITY)


def test_a_fault_of_the_storage_is_raised_at_the_next_save(process_group, tmp_path):
    trained = Trained()
    (tmp_path / "checkpoints").write_text("a file in the way")
    save = saver(str(tmp_path), trained)
    save(Progress(step=1))
    with pytest.raises(OSError, match="checkpoints"):
        save.wait()

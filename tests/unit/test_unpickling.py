"""What somebody plants in storage is not run: pickles in tables, checkpoints and models."""

import ast
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data  # registers the type of Arrow whose values are pickles
import torch
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

from cslm import storage
from cslm.data import containers
from cslm.errors import CheckpointError, ContractError
from cslm.train import data_parallel
from cslm.train.optimizers import Optimizers
from cslm.train.recogniser.loop import FitSection, Progress

PACKAGE = Path(__file__).resolve().parents[2] / "platform" / "cslm"
assert ray.data


class Planted:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Where a pickle that is run leaves its mark; there is none in the end."""
    place = tmp_path / "ran"
    yield place
    assert not place.exists()


@pytest.mark.parametrize("nested", [False, True], ids=["column", "in a list"])
def test_a_table_with_pickled_objects_is_refused_unseen(tmp_path: Path, mark: Path, nested: bool) -> None:
    objects = ArrowPythonObjectArray.from_storage(_type(), pa.array([pickle.dumps(Planted(mark))], pa.large_binary()))
    column = pa.ListArray.from_arrays([0, 1], objects) if nested else objects
    uri = str(tmp_path / "table.parquet")
    pq.write_table(pa.table({"id": ["a"], "text": column}), uri)
    for read in (
        lambda: storage.read_table(uri).to_pylist(),
        lambda: storage.read_table([uri]).to_pylist(),
        lambda: storage.read_table(str(tmp_path)).to_pylist(),
        lambda: storage.read_rows(uri, ["id", "text"]).to_pylist(),
        lambda: storage.read_row_groups(uri, [0], ["text"]).to_pylist(),
        lambda: storage.parquet_schema(uri),
        lambda: containers.open_parquet(uri).read().to_pylist(),
    ):
        with pytest.raises(ContractError, match="pickled Python objects in text"):
            read()


def test_arrow_by_itself_would_run_it(tmp_path: Path) -> None:
    mark, uri = tmp_path / "ran", str(tmp_path / "table.parquet")
    objects = ArrowPythonObjectArray.from_storage(_type(), pa.array([pickle.dumps(Planted(mark))], pa.large_binary()))
    pq.write_table(pa.table({"text": objects}), uri)
    pq.read_table(uri).to_pylist()
    assert mark.exists()


def test_arrow_files_with_pickled_objects_are_refused_unseen(mark: Path) -> None:
    objects = ArrowPythonObjectArray.from_storage(_type(), pa.array([pickle.dumps(Planted(mark))], pa.large_binary()))
    batch = pa.record_batch([objects], names=["text"])
    for write in (pa.ipc.new_file, pa.ipc.new_stream):
        sink = pa.BufferOutputStream()
        with write(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with pytest.raises(ContractError, match="pickled Python objects in text"):
            list(containers.arrow_batches(pa.BufferReader(sink.getvalue())))


def _type() -> Any:
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    return ArrowPythonObjectType()


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(tmp_path: Path, mark: Path) -> None:
    saved = io.BytesIO()
    torch.save({"identity": {}, "network": Planted(mark)}, saved)
    for content in (pickle.dumps(Planted(mark)), saved.getvalue()):
        (tmp_path / data_parallel.CHECKPOINT).write_bytes(content)
        network = torch.nn.Linear(1, 1)
        with pytest.raises(CheckpointError, match="must be a checkpoint of this job"):
            data_parallel.restore(
                str(tmp_path), network, Optimizers(network, FitSection()), Progress, {}, torch.device("cpu")
            )


def test_a_pickle_in_the_place_of_a_models_weights_is_not_run(tmp_path: Path, mark: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(shape).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Planted(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|safe"):
        AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)


def unpickling(tree: ast.AST) -> Iterator[str]:
    """Calls that may run what they read, as `line: call`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        runs = name.split(".")[-1] in ("load", "loads", "Unpickler") and "pickle" in name
        runs |= name in ("eval", "exec", "joblib.load", "yaml.load", "yaml.unsafe_load")
        runs |= name == "torch.load" and given.get("weights_only") != "True"
        runs |= "allow_pickle" in given or given.get("trust_remote_code", "False") != "False"
        if runs:
            yield f"{node.lineno}: {name}"


def test_nothing_in_the_package_may_run_what_it_reads() -> None:
    found = {
        f"{module.relative_to(PACKAGE)}:{place}"
        for module in PACKAGE.rglob("*.py")
        for place in unpickling(ast.parse(module.read_text(encoding="utf-8")))
    }
    assert found == set()


def test_the_check_of_unpickling_finds_it() -> None:
    source = (
        "pickle.load(f)\ncloudpickle.loads(b)\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nyaml.load(s)\neval(s)\n"
        "A.from_pretrained(p, trust_remote_code=True)\ntorch.load(f, weights_only=True)\nyaml.safe_load(s)\n"
    )
    assert [place.split(":")[0] for place in unpickling(ast.parse(source))] == [str(line) for line in range(1, 8)]

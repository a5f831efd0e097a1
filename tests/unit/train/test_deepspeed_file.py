import json
from pathlib import Path

import pytest

from cslm.errors import ConfigError
from cslm.train import deepspeed_file
from cslm.train.deepspeed_file import Facts
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config, precision_of, stage_of

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "jobs" / "configs" / "deepspeed").glob("*.json"))
FOREIGN = sorted((ROOT / "tests" / "data" / "deepspeed").glob("*.json"))


def completed(document, world_size=2, on_cpu=False, **sizes):
    return deepspeed_config(
        DeepSpeedSection(),
        OptimizerSettings("adamw", 1e-3, 0.02, (0.9, 0.95), 0.1, 1.0),
        **{"rows_per_step": 8, "micro_batch_rows": 2, **sizes},
        world_size=world_size,
        on_cpu=on_cpu,
        document=document,
        facts=Facts(num_steps=100, warmup_steps=7, hidden_size=64),
    )


def autos(node):
    if isinstance(node, dict):
        return [found for value in node.values() for found in autos(value)]
    return [node] if node == "auto" else []


@pytest.mark.parametrize("path", SHIPPED + FOREIGN, ids=lambda path: path.stem)
def test_files_of_ours_and_of_other_projects_are_completed(path):
    document = deepspeed_file.read(str(path))
    config = completed(document, rows_per_step=32 if path.stem == "offload_zero3" else 8)
    assert not autos(config)
    assert stage_of(config) == document["zero_optimization"]["stage"]
    assert precision_of(config) == "bf16"
    sizes = [config[name] for name in deepspeed_file._SIZES]
    assert sizes[0] == sizes[1] * sizes[2] * 2

    def unchanged(given, got):
        for name, value in given.items():
            if isinstance(value, dict):
                unchanged(value, got[name])
            elif value != "auto":
                assert got[name] == value, name

    unchanged(document, config)


def test_six_files_are_shipped():
    names = {"zero0", "zero1", "zero2", "zero3", "zero3-offload", "zero3-nvme"}
    assert {path.stem for path in SHIPPED} == names
    assert len(FOREIGN) == 4


def test_auto_is_what_our_settings_say():
    config = completed(json.loads((ROOT / "tests/data/deepspeed/trainer_zero3.json").read_text()))
    assert config["optimizer"]["params"]["lr"] == 1e-3
    assert config["optimizer"]["params"]["weight_decay"] == 0.1
    assert config["scheduler"]["params"]["warmup_num_steps"] == 7
    assert config["gradient_clipping"] == 1.0
    assert config["zero_optimization"]["reduce_bucket_size"] == 64 * 64


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 2)),
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": "auto"}, (16, 2)),
        ({"train_micro_batch_size_per_gpu": 4}, (8, 4)),
        ({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 16}, (32, 1)),
        ({"train_batch_size": 12, "gradient_accumulation_steps": 3}, (12, 2)),
    ],
)
def test_batch_sizes_of_the_file_decide(sizes, expected):
    assert deepspeed_file.batch_sizes(sizes, rows_per_step=8, micro_batch_rows=2, world_size=2) == expected


def test_sizes_that_contradict_each_other_are_refused_with_all_of_them():
    sizes = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 3}
    assert [completed({"train_batch_size": 16})[name] for name in deepspeed_file._SIZES] == [16, 2, 4]
    with pytest.raises(ConfigError, match=r"train_batch_size must be .* found train_batch_size 16, .* 2 workers"):
        completed({**sizes, "zero_optimization": {"stage": 1}})


def test_what_cannot_work_here_is_refused():
    for part, value in (("pipeline", {"stages": 4}), ("tensor_parallel", {"autotp_size": 2})):
        with pytest.raises(ConfigError, match=f"deepspeed.config_path: {part}"):
            completed({part: value})
    with pytest.raises(ConfigError, match=r'zero_optimization.sub_group_size is "auto"'):
        completed({"zero_optimization": {"stage": 3, "sub_group_size": "auto"}})
    with pytest.raises(ConfigError, match=r"fp16.enabled needs a GPU"):
        completed({"fp16": {"enabled": True}}, on_cpu=True)


def test_a_file_that_is_none_says_so(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("nothing.json", "broken.json"):
        with pytest.raises(ConfigError, match=r"deepspeed.config_path: must be a readable JSON file"):
            deepspeed_file.read(str(tmp_path / name))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="must hold an object, found list"):
        deepspeed_file.read(str(tmp_path / "list.json"))


def test_what_it_takes_the_place_of_is_told():
    document = json.loads((ROOT / "tests/data/deepspeed/explicit_zero1.json").read_text())
    told = " ".join(deepspeed_file.tell(document, on_cpu=False))
    for part in ("ZeRO stage 1", "optimizer Adam", "scheduler WarmupDecayLR"):
        assert part in told
    assert "PyTorch's fused Adam" in " ".join(set(deepspeed_file.tell(document, on_cpu=True)) - {told})
    assert "torch_adam" not in told

import pytest

from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config

ADAMW = OptimizerSettings("adamw", 1e-3, 0.02, (0.9, 0.95), 0.1, 1.0)
MUON = OptimizerSettings("muon", 1e-3, 0.02, (0.9, 0.95), 0.1, 1.0)


@pytest.mark.parametrize(("rows", "micro", "world"), [(8, 4, 2), (8, 8, 2), (16, 2, 4), (4, 1, 1)])
def test_batch_sizes_are_consistent(rows, micro, world):
    config = deepspeed_config(
        DeepSpeedSection(), ADAMW, rows_per_step=rows, micro_batch_rows=micro, world_size=world, on_cpu=True
    )
    per_gpu, steps = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == per_gpu * steps * world == rows
    assert per_gpu <= micro


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_stage_and_precision_are_passed_on(stage, precision):
    section = DeepSpeedSection(zero_stage=stage, precision=precision)
    config = deepspeed_config(section, ADAMW, rows_per_step=2, micro_batch_rows=1, world_size=2, on_cpu=True)
    assert config["zero_optimization"]["stage"] == stage
    assert config["bf16"]["enabled"] is (precision == "bf16")


@pytest.mark.parametrize("on_cpu", [True, False])
def test_gathered_weights_are_let_go_where_models_are_large(on_cpu):
    config = deepspeed_config(
        DeepSpeedSection(), ADAMW, rows_per_step=2, micro_batch_rows=1, world_size=2, on_cpu=on_cpu
    )
    assert config["zero_optimization"]["memory_efficient_linear"] is not on_cpu


def test_muon_has_its_own_rate_and_is_not_clipped():
    config = deepspeed_config(DeepSpeedSection(), MUON, rows_per_step=2, micro_batch_rows=1, world_size=2, on_cpu=True)
    assert config["optimizer"]["type"] == "Muon"
    assert config["optimizer"]["params"]["muon_lr"] == 0.02
    assert config["optimizer"]["params"]["adam_lr"] == 1e-3
    assert config["gradient_clipping"] == 0
    assert config["zero_optimization"]["reduce_scatter"] is False

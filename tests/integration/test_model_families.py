"""Models of several families, extended by units, on two ranks of ZeRO-3: trained, exported, opened again."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from cslm.data.feed import IGNORE, Batch
from cslm.lm import lora, text_tokenizer, vocabulary
from cslm.lm import model as lm_model
from cslm.lm.lora import LoraSection
from cslm.lm.model import ModelSection
from cslm.train import export
from cslm.train.build import Recipe
from cslm.train.engine import ZeroEngine
from cslm.train.freeze import FreezeSection
from cslm.train.objective import PackedObjective
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config
from tests.data import ranks

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
# Windows of 8 are shorter than the segments of 14.
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen3": (Qwen3Config, {}),
    "mistral": (MistralConfig, {"sliding_window": 8}),
    "gemma2": (Gemma2Config, {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 8, "query_pre_attn_scalar": 8}),
}
LENGTHS = [14, 6, 3]


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """A start folder a family: a random model with a text tokenizer, units appended as for training."""
    root = tmp_path_factory.mktemp("families")
    tokenizer = text_tokenizer.train(["one two three"] * 3, vocab_size=320)
    found = {}
    for name, (config, more) in FAMILIES.items():
        torch.manual_seed(0)
        base = str(root / f"{name}-base")
        model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **SHAPE, **more))
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        found[name] = str(root / name)
        lm_model.prepare(
            found[name], ModelSection(path=base), texts=list, num_units=10, unit_tokenizer="abc", frame_rate_hz=25.0,
            codebook=lambda: None, seed=0,
        )  # fmt: skip
    return found


def packed(seed=0, length=24):
    ids = torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(seed))
    sizes = [*LENGTHS, length - sum(LENGTHS)]
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    labels, start = torch.full_like(ids, IGNORE), 0
    for size in LENGTHS:
        labels[0, start : start + size - 1] = ids[0, start + 1 : start + size]
        start += size
    groups = torch.where(torch.arange(length) < sum(LENGTHS), 0, -1)[None]
    return Batch(ids, positions, labels, groups)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_loss_is_that_of_the_segments_alone(starts, family):
    batch = packed()
    loss = PackedObjective(lm_model.load(starts[family], torch.float32, packed=True), 1)(batch)[0]
    plain = AutoModelForCausalLM.from_pretrained(starts[family], attn_implementation="eager", dtype=torch.float32)
    alone, start = 0.0, 0
    for size in LENGTHS:
        ids = batch.input_ids[:, start : start + size]
        alone += F.cross_entropy(plain(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
        start += size
    assert loss.item() == pytest.approx(alone, rel=1e-5)


def engine_of(start, document=None, recipe=None, precision="fp32", micro=2):
    config = deepspeed_config(
        DeepSpeedSection(precision=precision),
        OptimizerSettings("adamw", 1e-2, 0.02, (0.9, 0.95), 0.1, 1.0),
        rows_per_step=4,
        micro_batch_rows=micro,
        world_size=dist.get_world_size(),
        on_cpu=True,
        document=document,
    )
    return ZeroEngine(start, config, 1, torch.device("cpu"), recipe)


def trained(engine, steps, first=0):
    losses = []
    for _ in range(steps):
        sums = torch.zeros(2, 1, dtype=torch.float64)
        for row in range(engine._accumulation):
            batch = packed(10 * row + dist.get_rank())
            sums += engine.accumulate(batch, 20 * engine._accumulation * dist.get_world_size())
        dist.all_reduce(sums)
        engine.step(1.0)
        losses.append((sums[0] / sums[1]).item())
    return losses


def every_family(starts, root):
    for family, start in starts.items():
        engine = engine_of(start)
        losses = trained(engine, 3)
        assert losses[-1] < losses[0], (family, losses)
        weights = ranks.gather(engine)
        tokenizer, layout = text_tokenizer.load(start), vocabulary.load(start)
        export.write(f"{root}/{family}", engine, tokenizer, layout)
        # An engine has transformers shard what it loads, over all ranks.
        unset_hf_deepspeed_config()
        if weights is not None:
            read = AutoModelForCausalLM.from_pretrained(f"{root}/{family}").state_dict()
            for name, weight in weights.items():
                assert torch.equal(read[name], weight), (family, name)


def adapters(starts, root):
    for family in ("llama", "gemma2"):
        start = starts[family]
        begun = lm_model.load(start, torch.float32).state_dict()
        engine = engine_of(start, recipe=Recipe(lora=LoraSection(rank=4, alpha=8)))
        losses = trained(engine, 3)
        assert losses[-1] < losses[0], (family, losses)
        held = {fragment.name for part in engine.state.parts for fragment in part.fragments()}
        assert all("lora_" in name or "embed_tokens" in name or "lm_head" in name for name in held), held
        export.write(f"{root}/{family}-lora", engine, text_tokenizer.load(start), vocabulary.load(start))
        with engine.gathered(list(engine.lm.parameters())):
            adapted = PackedObjective(engine.lm, 1).eval()(packed(7))[0].item()
        unset_hf_deepspeed_config()
        if dist.get_rank() == 0:
            plain = lm_model.load(f"{root}/{family}-lora", torch.float32, packed=True)
            assert PackedObjective(plain, 1).eval()(packed(7))[0].item() == pytest.approx(adapted, rel=1e-5)
            read = plain.state_dict()
            assert read.keys() == begun.keys()
            assert not torch.equal(
                read["model.layers.0.self_attn.q_proj.weight"], begun["model.layers.0.self_attn.q_proj.weight"]
            )
            assert torch.equal(read["model.norm.weight"], begun["model.norm.weight"])
        assert list(lora.weights(engine.lm))


def foreign_files(starts, root):
    for name in ("trainer_zero2", "trainer_zero3", "explicit_zero1"):
        document = json.loads((ROOT / "tests" / "data" / "deepspeed" / f"{name}.json").read_text())
        losses = trained(engine_of(starts["llama"], document, precision="bf16"), 4)
        assert losses[-1] < losses[0], (name, losses)


def frozen(starts, root):
    """For two steps only rows of units and marks move, then everything."""
    start = starts["llama"]
    layout = vocabulary.load(start)
    new = slice(layout.num_text, layout.size)
    engine = engine_of(start, recipe=Recipe(freeze=FreezeSection(until_step=2)))
    for stage, old_moves in ((2, False), (1, True)):
        before = ranks.gather(engine)
        for _ in range(stage):
            sums = engine.accumulate(with_units(layout), 100)
            engine.accumulate(with_units(layout), 100) if engine._accumulation == 2 else sums
            engine.step(1.0)
        after = ranks.gather(engine)
        if before is None:
            continue
        for name, weight in before.items():
            rows = name in ("model.embed_tokens.weight", "lm_head.weight")
            old = torch.cat([weight[: new.start], weight[new.stop :]]) if rows else weight
            found = torch.cat([after[name][: new.start], after[name][new.stop :]]) if rows else after[name]
            assert torch.equal(old, found) != old_moves, (name, stage)
            if rows:
                assert not torch.equal(weight[new], after[name][new]), name


def with_units(layout):
    batch = packed()
    batch.input_ids[0, :5] = torch.arange(layout.num_text, layout.num_text + 5)
    batch.labels[0, :4] = batch.input_ids[0, 1:5]
    return batch


def work(starts, root):
    for part in (every_family, adapters, foreign_files, frozen):
        part(starts, root)


def test_families_adapters_foreign_files_and_freezing_on_two_ranks(starts, tmp_path):
    ranks.run(2, work, starts, str(tmp_path))

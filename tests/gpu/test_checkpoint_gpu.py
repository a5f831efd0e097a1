"""A training state saved on a GPU comes back on it, under the same ZeRO stage and under another. Needs no Ray."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import Batch
from cslm.lm.lora import LoraSection
from cslm.train import checkpoint
from cslm.train.build import Recipe
from cslm.train.compute import ComputeSection
from cslm.train.progress import Progress
from tests.data import ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = torch.device("cuda", 0)
IDENTITY = {"vocabulary": "v", "packed": "p", "training": "t"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
    )
    path = str(tmp_path_factory.mktemp("model"))
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


# Not Liger Kernel's, which would stay for the other tests of the process.
PLAIN = Recipe(compute=ComputeSection(kernels="torch"))


def engine_of(folder, stage, precision, recipe=PLAIN):
    return ranks.engine(folder, stage, precision, micro_batch_rows=4, recipe=recipe, device=CUDA)


def trained(engine, steps):
    ids = torch.randint(0, 1024, (2, 128), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, torch.arange(128).repeat(2, 1), ids.roll(-1, 1), torch.zeros_like(ids))
    losses = []
    for _ in range(steps):
        sums = engine.accumulate(batch, 256)
        engine.step(1.0)
        losses.append((sums[0] / sums[1]).item())
    return losses


def state_of(engine):
    return {
        (fragment.key, fragment.name): fragment.values.clone()
        for part in engine.state.parts
        for fragment in part.fragments()
    }


@pytest.mark.parametrize(
    ("saved", "restored", "precision"),
    [(3, 3, "bf16"), (3, 1, "bf16"), (1, 3, "bf16"), (2, 2, "fp16"), (3, 3, "fp16")],
)
def test_a_saved_state_comes_back(folder, tmp_path, saved, restored, precision):
    engine = engine_of(folder, saved, precision)
    trained(engine, 3)
    expected = state_of(engine)
    saver = checkpoint.Saver(str(tmp_path), engine.state, IDENTITY, keep_last=1, device=CUDA)
    saver(Progress(step=3))
    ahead = trained(engine, 3)  # while the files are written
    saver.wait()
    other = engine_of(folder, restored, precision)
    assert checkpoint.restore(str(tmp_path), other.state, IDENTITY, device=CUDA).step == 3
    found = state_of(other)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    # Kernels of attention's backward pass add up in an order that varies.
    assert trained(other, 3) == pytest.approx(ahead, abs=0.02)
    assert ahead[-1] < ahead[0]


def test_adapters_train_alone_and_are_in_the_weights_that_are_gathered(folder):
    engine = engine_of(folder, 3, "bf16", Recipe(lora=LoraSection(rank=8), compute=PLAIN.compute))
    begun = ranks.gather(engine)
    losses = trained(engine, 4)
    assert losses[-1] < losses[0]
    changed = {name for name, weight in ranks.gather(engine).items() if not torch.equal(weight, begun[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("norm" in name for name in changed)

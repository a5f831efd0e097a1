"""The engine on a GPU: what it computes is what plain PyTorch computes. Needs no Ray."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import IGNORE, Batch
from cslm.lm import attention
from cslm.train import compute, linear_cross_entropy
from cslm.train.build import Recipe
from cslm.train.compute import ComputeSection
from cslm.train.objective import PackedObjective
from tests.data import ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = torch.device("cuda", 0)
LENGTHS = [[100, 57, 90], [200, 31]]


def model(dtype):
    attention.register()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).to(CUDA, dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model"))
    model(torch.float32).save_pretrained(path)
    return path


def packed(seed=0, row_length=256):
    ids = torch.randint(0, 1024, (len(LENGTHS), row_length), generator=torch.Generator().manual_seed(seed))
    positions, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    groups = torch.full_like(ids, -1)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths):
            end = start + length
            positions[row, start:end] = torch.arange(length)
            labels[row, start : end - 1] = ids[row, start + 1 : end]
            groups[row, start:end] = number % 2
            start = end
        positions[row, start:] = torch.arange(row_length - start)
    return Batch(ids, positions, labels, groups)


def alone(lm, batch):
    """The loss of every segment by itself, by transformers' own loss."""
    total = torch.zeros((), device=CUDA)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            ids = batch.input_ids[row, start : start + length][None].to(CUDA)
            total = total + lm(input_ids=ids, labels=ids, use_cache=False).loss.float() * (length - 1)
            start += length
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_losses_and_gradients_are_those_of_the_segments_alone(dtype):
    lm, batch = model(dtype), packed()
    uses_varlen = compute.varlen(lm, CUDA)
    assert uses_varlen == (dtype == torch.bfloat16)
    loss, per_group = PackedObjective(lm, 2)(batch.to(CUDA, varlen=uses_varlen))
    loss.backward()
    ours = {name: weight.grad.clone() for name, weight in lm.named_parameters()}
    lm.zero_grad()
    lm.set_attn_implementation("sdpa")
    expected = alone(lm, batch)
    expected.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert per_group[0].sum().item() == pytest.approx(loss.item(), rel=1e-5)
    for name, weight in lm.named_parameters():
        difference = (ours[name].float() - weight.grad.float()).norm() / weight.grad.float().norm()
        assert difference < (1e-4 if dtype == torch.float32 else 0.05), name


def test_the_compiled_loss_of_the_head_is_plain_cross_entropy():
    torch.manual_seed(0)
    hidden = torch.randn(1000, 64, device=CUDA, requires_grad=True)
    weight = torch.randn(5000, 64, device=CUDA, requires_grad=True)
    labels = torch.randint(0, 5000, (1000,), device=CUDA)
    for softcap in (None, 30.0):
        logits = hidden @ weight.T
        capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        plain = torch.nn.functional.cross_entropy(capped, labels, reduction="sum")
        expected = torch.autograd.grad(plain, (hidden, weight))
        total, _ = linear_cross_entropy.linear_cross_entropy(hidden, weight, labels, softcap=softcap, rows=300)
        torch.testing.assert_close(total, plain, rtol=1e-5, atol=0)
        torch.testing.assert_close(torch.autograd.grad(total, (hidden, weight)), expected, rtol=1e-3, atol=1e-3)


def trained(folder, stage, precision="fp32", computing=None, steps=4, **sharding):
    recipe = Recipe(compute=computing or ComputeSection())
    engine = ranks.engine(
        folder, stage, precision, micro_batch_rows=2, num_groups=2, recipe=recipe, device=CUDA, **sharding
    )
    losses = []
    for _ in range(steps):
        batches = [packed(0), packed(1)]
        targets = sum(batch.num_targets for batch in batches)
        sums = sum(engine.accumulate(batch, targets) for batch in batches)
        engine.step(1.0)
        losses.append((sums[0].sum() / targets).item())
    return losses


@pytest.fixture(scope="module")
def reference(folder):
    """The same training in plain PyTorch, fp32."""
    lm = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").to(CUDA)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=ranks.RATE, betas=ranks.BETAS, weight_decay=ranks.DECAY)
    losses = []
    for _ in range(4):
        batches = [packed(0), packed(1)]
        targets = sum(batch.num_targets for batch in batches)
        loss = sum(alone(lm, batch) for batch in batches) / targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_trains_as_plain_pytorch(folder, reference, stage):
    assert trained(folder, stage, computing=ComputeSection(kernels="torch")) == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize(("stage", "parameters"), [(2, False), (3, False), (3, True)])
def test_states_on_the_host_train_as_plain_pytorch(folder, reference, stage, parameters):
    computing = ComputeSection(kernels="torch")
    losses = trained(folder, stage, computing=computing, offload="cpu", offload_parameters=parameters)
    assert losses == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "computing"),
    [
        # First: Liger Kernel changes the rotary embedding for the whole process, which the compiler cannot take.
        (1, ComputeSection(compile=True)),
        (3, ComputeSection(kernels="torch")),
        (3, ComputeSection(kernels="liger")),
        (3, ComputeSection(kernels="liger", recompute_every=1)),
        (2, ComputeSection(kernels="torch", recompute_every=2)),
    ],
    ids=["compiled", "torch", "liger", "recomputed", "every second recomputed"],
)
def test_16_bits_kernels_and_recomputation_train_nearly_the_same(folder, reference, stage, computing):
    losses = trained(folder, stage, "bf16", computing)
    assert losses == pytest.approx(reference, abs=0.03)
    assert losses[-1] < losses[0]

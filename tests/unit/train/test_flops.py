import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import IGNORE, Batch
from cslm.train.flops import ModelFlops, peak_flops


@pytest.fixture(scope="module")
def lm():
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def batch(length=8, padding=0):
    ids = torch.zeros(1, length + padding, dtype=torch.long)
    positions = torch.cat([torch.arange(length), torch.arange(padding)])[None]
    groups = torch.where(torch.arange(length + padding) < length, 0, -1)[None]
    labels = torch.where(groups < 0, IGNORE, 1)
    return Batch(ids, positions, labels, groups)


def test_they_are_what_pytorch_counts(lm):
    length = 8
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=batch(length).input_ids, use_cache=False).logits.sum().backward()
    flops = ModelFlops.of(lm)
    # Without a causal kernel all pairs are computed, not only those that are looked at. The first layer's input asks
    # for no gradient, which the embedding below it does.
    unseen = flops.a_pair * (length * length - length * (length + 1) // 2)
    assert counter.get_total_flops() == pytest.approx(flops.of_batch(batch(length)) + unseen)


def test_padding_and_frozen_weights_count_for_less(lm):
    flops = ModelFlops.of(lm)
    assert flops.of_batch(batch(8, 5)) == flops.of_batch(batch(8))
    for parameter in lm.base_model.parameters():
        parameter.requires_grad_(False)
    assert ModelFlops.of(lm).a_token == pytest.approx(flops.a_token * 4 / 6)
    assert ModelFlops.of(lm).a_target == flops.a_target
    for parameter in lm.parameters():
        parameter.requires_grad_(True)


def test_a_device_without_a_known_peak_is_measured():
    peak, how = peak_flops(torch.device("cpu"), torch.float32)
    assert how == "measured"
    assert peak > 1e8

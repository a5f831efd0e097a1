import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import IGNORE, Batch
from cslm.lm import attention
from cslm.train.objective import PackedObjective

SEGMENTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16]]


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    attention.register()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, tie_word_embeddings=True, **shape)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()


def packed(segments, length=16):
    ids, positions, labels, groups = [], [], [], []
    for number, segment in enumerate(segments):
        ids += segment
        positions += range(len(segment))
        labels += [*segment[1:], IGNORE]
        groups += [number % 2] * len(segment)
    rest = length - len(ids)
    ids, positions = ids + [0] * rest, positions + list(range(rest))
    labels, groups = labels + [IGNORE] * rest, groups + [-1] * rest
    return Batch(*(torch.tensor([row]) for row in (ids, positions, labels, groups)))


def test_packed_loss_is_the_sum_of_the_segments_alone(lm):
    loss, per_group = PackedObjective(lm, 2)(packed(SEGMENTS))
    alone = [PackedObjective(lm, 2)(packed([segment]))[0] for segment in SEGMENTS]
    assert loss.item() == pytest.approx(sum(part.item() for part in alone), rel=1e-5)
    assert per_group[1].tolist() == [4 + 3, 2]
    assert per_group[0].sum().item() == pytest.approx(loss.item(), rel=1e-5)


def test_packed_gradient_is_the_sum_of_the_segments_alone(lm):
    weight = lm.get_input_embeddings().weight

    def gradient(batches):
        lm.zero_grad()
        for batch in batches:
            PackedObjective(lm, 2)(batch)[0].backward()
        return weight.grad.clone()

    together = gradient([packed(SEGMENTS)])
    alone = gradient([packed([segment]) for segment in SEGMENTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_the_loss_is_plain_cross_entropy(lm):
    segment = torch.tensor([SEGMENTS[0]])
    lm.set_attn_implementation("sdpa")
    logits = lm(input_ids=segment).logits
    lm.set_attn_implementation(attention.NAME)
    expected = F.cross_entropy(logits[0, :-1], segment[0, 1:], reduction="sum")
    assert PackedObjective(lm, 2)(packed([SEGMENTS[0]]))[0].item() == pytest.approx(expected.item(), rel=1e-5)

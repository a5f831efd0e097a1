"""The loop with its own cache and masks against the plain model that reads everything anew at each token."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from cslm.lm import decoding, grammar
from cslm.lm.grammar import Bounds, Guide, Kind
from cslm.lm.sampling import Chooser, Sampling

SIZE = 40
KINDS = np.array([Kind.STOP] + [Kind.TEXT] * (SIZE - 1))
SHAPE = {
    "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "sliding"])
def model(request):
    config = LlamaConfig(**SHAPE) if request.param == "llama" else MistralConfig(**SHAPE, sliding_window=4)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def decoded(model, prompts, num_tokens, batch_size=64):
    prompts = sorted(prompts, key=len, reverse=True)
    guide = Guide([grammar.text_only()] * len(prompts), [Bounds(num_tokens, 99, 99)] * len(prompts), KINDS)
    outputs = [[] for _ in prompts]
    bans = decoding.Bans(KINDS, torch.device("cpu"))
    chooser = Chooser(Sampling(temperature=0), prompts)
    for step in decoding.decode(model, prompts, guide, bans, chooser, batch_size=batch_size):
        for row, token in zip(step.rows, step.tokens, strict=True):
            outputs[row].append(token)
    return {tuple(prompt): output for prompt, output in zip(prompts, outputs, strict=True)}


def read_anew(model, prompt, num_tokens):
    ids = list(prompt)
    with torch.no_grad():
        for step in range(num_tokens):
            logits = model(torch.tensor([ids])).logits[0, -1]
            logits[0] = -torch.inf if step == 0 else logits[0]
            ids.append(0 if step == num_tokens - 1 else int(logits.argmax()))
            if ids[-1] == 0:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_batch_gives_what_each_prompt_gives_read_anew(model, batch_size):
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (20,), generator=random).tolist()
    prompts = [torch.randint(1, SIZE, (length,), generator=random).tolist() for length in lengths]
    outputs = decoded(model, prompts, 24, batch_size)
    assert outputs == {tuple(prompt): read_anew(model, prompt, 24) for prompt in prompts}
    assert len({len(output) for output in outputs.values()}) > 3, "outputs must end one after the other"


def test_what_was_before_all_is_forgotten_and_room_is_taken_when_it_runs_out(model):
    """Outputs that take the places of others for longer than there was room for at first."""
    prompts = [[number, 5, number] for number in range(1, 13)]
    outputs = decoded(model, prompts, 60, batch_size=2)
    assert outputs == {tuple(prompt): read_anew(model, prompt, 60) for prompt in prompts}
    assert sum(map(len, outputs.values())) > 4 * 60

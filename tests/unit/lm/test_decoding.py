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
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [3, 4, 3, 4, 3]]


@pytest.fixture(scope="module", params=["llama", "sliding"])
def model(request):
    config = LlamaConfig(**SHAPE) if request.param == "llama" else MistralConfig(**SHAPE, sliding_window=4)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def decoded(model, prompts, num_tokens, room=64):
    guide = Guide([grammar.text_only()] * len(prompts), [Bounds(num_tokens, 99, 99)] * len(prompts), KINDS)
    outputs = [[] for _ in prompts]
    bans = decoding.Bans(KINDS, torch.device("cpu"))
    for step in decoding.decode(model, prompts, guide, bans, Chooser(Sampling(temperature=0), prompts), room):
        for row, token in zip(step.rows, step.tokens, strict=True):
            outputs[row].append(token)
    return outputs


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


def test_a_batch_gives_what_each_prompt_gives_read_anew(model):
    outputs = decoded(model, PROMPTS, 24)
    assert outputs == [read_anew(model, prompt, 24) for prompt in PROMPTS]
    assert len({len(output) for output in outputs}) > 1, "no output left the batch before the others"


def test_room_that_was_underestimated_is_enlarged(model):
    layout = decoding._Layout(model, PROMPTS, 1)
    assert layout.arguments()["past_key_values"] is not None
    assert decoded(model, [[5, 6, 7]], 24, room=24) == decoded(model, [[5, 6, 7]], 24, room=200)

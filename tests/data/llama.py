"""A tokenizer in the style of Llama 3: its special tokens and chat template, over single bytes instead of its words."""

from typing import TYPE_CHECKING

from cslm.lm import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUM_UNITS = 8
# What the model card of Llama 3 prints as its prompt format.
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>"
    "{% endfor %}"
)


def tokenizer_and_layout() -> tuple["PreTrainedTokenizerFast", vocabulary.Vocabulary]:
    """The tokenizer with `NUM_UNITS` units merged in, and the layout; a byte's id is its place in the alphabet."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    tokenizer.chat_template = _TEMPLATE
    layout = vocabulary.extend(tokenizer, num_units=NUM_UNITS, unit_tokenizer="abc", frame_rate_hz=25.0)
    return tokenizer, layout

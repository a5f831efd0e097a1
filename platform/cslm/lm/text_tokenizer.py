"""Text tokenizers: one trained on the corpus' own text when the user brings none, and plain-text encoding.

The trained one is byte-level BPE, so that no script is unknown to it. Han characters stand alone before merging:
Chinese is written without spaces, and merges across characters would make tokens of whole phrases.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cslm import storage
from cslm.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEGIN, TURN_END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|pad|>"
_ROLES = ("system", "user", "assistant")
_ROLE_TOKENS = tuple(f"<|{role}|>" for role in _ROLES)
# Tokenizers that are all in their tokenizer.json, as most are; others have code of their own.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# A turn is framed by one token before and one behind: of a short utterance's row, longer frames would be a fifth.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{{{ '<|' + message['role'] + '|>' + message['content'] }}}}{TURN_END}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Llama 3 (its model card, "prompt format"), for a base model of it, which comes without a template.
_LLAMA3_HEADER = "<|start_header_id|>"
_LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{_LLAMA3_HEADER}{{{{ message['role'] }}}}<|end_header_id|>\n\n{{{{ message['content'] }}}}<|eot_id|>"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{_LLAMA3_HEADER}assistant<|end_header_id|>\n\n{{% endif %}}"
)


def train(texts: Iterable[str], *, vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer with a chat template; deterministic for the same texts in the same order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[BEGIN, TURN_END, PAD, *_ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=TURN_END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load(folder: str) -> "PreTrainedTokenizerFast":
    """Open the tokenizer of a local model folder. Raises CheckpointError when it has none or no chat template."""
    import transformers

    description = storage.join(folder, "tokenizer_config.json")
    if not storage.exists(description):
        raise CheckpointError(f"{folder} must hold a Hugging Face tokenizer (tokenizer_config.json), found none")
    # AutoTokenizer would load torch and every model's code to find a plain class: ten seconds of a core a process.
    is_plain = storage.read_json(description).get("tokenizer_class") in _PLAIN_CLASSES
    loader = transformers.PreTrainedTokenizerFast if is_plain else transformers.AutoTokenizer
    tokenizer: PreTrainedTokenizerFast = loader.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _LLAMA3_TEMPLATE if _LLAMA3_HEADER in tokenizer.get_vocab() else None
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: the tokenizer must have a chat template; take an instruction-tuned model")
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    """Token ids of user text. Names of special tokens in it are read as plain letters, never as specials."""
    # Right at the backend: what transformers does around it takes three times as long as the text itself.
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


def encode_markup(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    """Token ids of the platform's own markup, in which the names of special tokens count."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids

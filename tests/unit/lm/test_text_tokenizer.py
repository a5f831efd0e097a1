import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cslm.errors import CheckpointError
from cslm.lm import prompts, text_tokenizer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_comes_back(joint, text):
    tokenizer, _ = joint
    assert tokenizer.decode(text_tokenizer.encode(tokenizer, text)) == text


def test_names_of_specials_in_user_text_are_plain_letters(joint):
    tokenizer, layout = joint
    ids = text_tokenizer.encode(tokenizer, "say <unit_3> <|eot_id|> <sosp> [answer]")
    reserved = {layout.unit_ids([3])[0], layout.special("<sosp>"), layout.special("[answer]"), tokenizer.eos_token_id}
    assert not reserved & set(ids)
    assert layout.unit_ids([3])[0] in text_tokenizer.encode_markup(tokenizer, "say <unit_3>")


def test_han_characters_are_tokens_of_their_own(joint):
    tokenizer, _ = joint
    assert len(text_tokenizer.encode(tokenizer, "二加三等于五。")) >= 6


def test_training_is_deterministic():
    texts = ["one two three", "uno dos tres"] * 5
    first, second = (text_tokenizer.train(texts, vocab_size=320) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_a_saved_tokenizer_keeps_its_ids_and_template(joint, tmp_path):
    tokenizer, _ = joint
    tokenizer.save_pretrained(tmp_path)
    opened = text_tokenizer.load(str(tmp_path))
    text = "Two plus three is 五 <unit_1>."
    assert text_tokenizer.encode(opened, text) == text_tokenizer.encode(tokenizer, text)
    assert text_tokenizer.encode_markup(opened, text) == text_tokenizer.encode_markup(tokenizer, text)
    assert opened.chat_template == tokenizer.chat_template


def test_a_base_model_of_llama_3_gets_the_frame_that_its_family_knows(tmp_path):
    tokenizer = text_tokenizer.train(["one two three"] * 5, vocab_size=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>"]})
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert text_tokenizer.load(str(tmp_path)).apply_chat_template(turns, tokenize=False) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\ntwo<|eot_id|>"
    )


def test_turns_are_framed_by_one_token_before_and_one_behind(joint):
    tokenizer, _ = joint
    frames = prompts.ChatFrame(tokenizer).turns(["user", "assistant"])
    assert [tokenizer.convert_ids_to_tokens([*frame.header, *frame.end]) for frame in frames] == [
        ["<|begin_of_text|>", "<|user|>", "<|eot_id|>"],
        ["<|assistant|>", "<|eot_id|>"],
    ]


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        text_tokenizer.load(str(tmp_path))


def test_packing_needs_no_torch(joint, tmp_path):
    tokenizer, layout = joint
    tokenizer.save_pretrained(tmp_path)
    layout.save(str(tmp_path))
    code = (
        "import sys\n"
        "from cslm.data.example_table import ChainSection, open_builder\n"
        f"builder, _ = open_builder({str(tmp_path)!r}, ChainSection(), 512)\n"
        "builder.build('asr/en', {'id': 'a', 'language': 'en', 'text': 'Two.', 'units': [1, 2]}, {})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "platform"})

import pytest

from cslm.errors import CheckpointError, ConfigError
from cslm.lm import prompts
from cslm.lm.prompts import ChatFrame


@pytest.mark.parametrize("path", sorted(prompts.TEMPLATE_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_language_has_every_task(path):
    templates = prompts.templates(path.stem)
    assert set(templates.prompts) == {"asr", "tts", "mt", "st", "s2st", "answer"}
    assert all(len(choices) > 1 for choices in templates.prompts.values())


def test_a_language_without_prompts_for_a_task_tells_which(tmp_path, monkeypatch):
    (tmp_path / "xx.yaml").write_text('prompts: {asr: ["a {input}"], tts: ["no slot"]}')
    monkeypatch.setattr(prompts, "TEMPLATE_FOLDER", tmp_path)
    with pytest.raises(ConfigError) as caught:
        prompts.templates("xx-nowhere")
    assert "found 'no slot'" in str(caught.value)
    assert "xx.yaml: must have prompts for answer, found none" in caught.value.faults


def test_the_paraphrase_follows_from_the_id():
    templates = prompts.templates("en")
    assert templates.choose("asr", "u1") == templates.choose("asr", "u1")
    assert len({templates.choose("asr", f"u{number}") for number in range(50)}) == len(templates.prompts["asr"])


def test_a_regional_tag_uses_its_language():
    assert prompts.templates("es-MX").prompts == prompts.templates("es").prompts


def test_an_unknown_language_tells_what_to_add():
    with pytest.raises(ConfigError, match=r"add xx\.yaml"):
        prompts.templates("xx")


def test_frames_rebuild_the_template(joint):
    tokenizer, _ = joint
    roles, contents = ["user", "assistant", "user", "assistant"], ["a", "b", "c", "d"]
    frames = ChatFrame(tokenizer).turns(roles)
    ids = []
    for frame, content in zip(frames, contents, strict=True):
        ids += [*frame.header, *tokenizer(content, add_special_tokens=False)["input_ids"], *frame.end]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_template_that_drops_content_is_refused(joint):
    tokenizer, _ = joint
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(CheckpointError, match="keep the content"):
        ChatFrame(tokenizer).turns(["user", "assistant"])


def test_a_template_with_two_begins_is_refused(joint):
    tokenizer, _ = joint
    tokenizer.chat_template = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    with pytest.raises(CheckpointError, match="exactly once"):
        ChatFrame(tokenizer).turns(["user", "assistant"])

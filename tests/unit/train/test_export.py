import weakref
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cslm import storage
from cslm.lm import chain, lora, text_tokenizer, vocabulary
from cslm.lm import model as lm_model
from cslm.train import export
from tests.data import ranks

FACTS = {
    "name": "runs/base",
    "base_model": "a new model",
    "languages": ["en", "es"],
    "tasks": ["asr/en", "mt/en-es"],
    "data": {"packed rows (fingerprint)": "0123"},
}


class Whole:
    """A model that is whole in this process; remembers what was gathered at a time."""

    def __init__(self, lm):
        self.lm, self.bytes_at_a_time = lm, []

    @contextmanager
    def gathered(self, parameters):
        self.bytes_at_a_time.append(sum(one.numel() * one.itemsize for one in parameters))
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return ranks.write_model(tmp_path_factory.mktemp("model") / "start")


@pytest.fixture
def opened(start, process_group):
    return lm_model.load(start), text_tokenizer.load(start), vocabulary.load(start)


@pytest.mark.parametrize("shard_bytes", [10**9, 100_000])
def test_the_folder_is_what_transformers_reads(opened, tmp_path, shard_bytes):
    lm, tokenizer, layout = opened
    folder = tmp_path / "model"
    export.write(str(folder), Whole(lm), tokenizer, layout, card=export.card(FACTS), shard_bytes=shard_bytes)
    assert chain.recorded(str(folder)) is None
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"]
    else:
        assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
        index = storage.read_json(str(folder / "model.safetensors.index.json"))
        assert set(index["weight_map"].values()) == set(files)
        assert index["metadata"]["total_size"] == sum(one.numel() * one.itemsize for one in lm.parameters())
    read = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert read.dtype == lm.dtype
    assert read.generation_config.eos_token_id == lm.generation_config.eos_token_id
    for name, weight in lm.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight), name
    assert len(AutoTokenizer.from_pretrained(folder)) == len(tokenizer)
    assert vocabulary.load(str(folder)) == layout
    text = (folder / "README.md").read_text()
    for part in (
        "language: [en, es]",
        "# base",
        "a new model",
        "asr/en, mt/en-es",
        "| packed rows (fingerprint) | 0123 |",
    ):
        assert part in text


def test_of_the_whole_model_one_weight_is_held_at_a_time(opened, tmp_path, monkeypatch):
    lm, tokenizer, layout = opened
    source, made, alive = Whole(lm), [], []
    gather = export._gather

    def watched(*arguments):
        alive.append(sum(one() is not None for one in made))
        weight = gather(*arguments)
        made.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(export, "_gather", watched)
    taught = chain.ChainSection(form="full")
    export.write(str(tmp_path / "model"), source, tokenizer, layout, chain=taught)
    assert chain.recorded(str(tmp_path / "model")) == taught
    largest = max(one.numel() * one.itemsize for one in lm.parameters())
    assert max(source.bytes_at_a_time) == largest
    assert len(made) == len(list(lm.parameters())) > 10
    assert max(alive) <= 1


def test_adapters_are_merged_on_the_way(opened, tmp_path):
    lm, tokenizer, layout = opened
    weights = list(lora.weights(lm))
    name, shape, (base,) = weights[3].name, weights[3].shape, weights[3].parameters
    down, up = (torch.nn.Parameter(torch.randn(size)) for size in ((2, shape[1]), (shape[0], 2)))
    merged = lora.Weight(name, (base, down, up), lambda whole, a, b: whole + b @ a)
    weights[3] = merged
    export.write(str(tmp_path / "model"), Whole(lm), tokenizer, layout, weights=weights)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert torch.equal(read[name], base + up @ down)

"""Networks of the true architectures, small and with random weights, as the files that a user has of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

S3_WIDTH = 128

_SMALL_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SMALL_MIMI: dict[str, Any] = {
    "num_filters": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "codebook_size": 64,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "num_quantizers": 4,
    "upsample_groups": 64,
    "sliding_window": 30,
}


def hubert_folder(path: Path, family: str = "hubert", norm: str = "group", **changes: Any) -> Path:
    """A Hugging Face folder of a HuBERT, wav2vec 2.0 or WavLM model; `norm` layer is that of the larger ones."""
    from transformers import AutoConfig, AutoModel

    settings = {**_SMALL_ENCODER, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", **changes}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **settings)).eval()
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    return path


def ctc_folder(
    path: Path, family: str = "wav2vec2", norm: str = "group", adapters: Mapping[str, str] | None = None
) -> Path:
    """A Hugging Face folder of a CTC model of English capitals, or of languages with an adapter and letters each."""
    from transformers import AutoConfig, AutoModelForCTC

    special = ["<pad>", "<s>", "</s>", "<unk>", "|"]
    vocabularies = {name: special + list(letters) for name, letters in (adapters or {}).items()}
    plain = [*special, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    first = next(iter(vocabularies.values()), plain)
    settings = {**_SMALL_ENCODER, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    settings |= {"vocab_size": len(first), "pad_token_id": 0, **({"adapter_attn_dim": 8} if adapters else {})}
    torch.manual_seed(0)
    model = AutoModelForCTC.from_config(AutoConfig.for_model(family, **settings)).eval()
    model.save_pretrained(path)
    for name, vocabulary in vocabularies.items():
        weights = {key: torch.randn_like(value) * 0.05 for key, value in model._get_adapters().items()}
        weights["lm_head.weight"] = torch.randn(len(vocabulary), settings["hidden_size"])
        weights["lm_head.bias"] = torch.zeros(len(vocabulary))
        save_file(weights, path / f"adapter.{name}.safetensors")
    numbered = {name: {one: place for place, one in enumerate(them)} for name, them in vocabularies.items()}
    document = numbered or {one: place for place, one in enumerate(plain)}
    (path / "vocab.json").write_text(json.dumps(document))
    (path / "tokenizer_config.json").write_text(json.dumps({"word_delimiter_token": "|"}))
    (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    return path


def mimi_folder(path: Path, **changes: Any) -> Path:
    """A Hugging Face folder of a Mimi model whose semantic codebook lies where its latents are."""
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    model = MimiModel(MimiConfig(**{**_SMALL_MIMI, **changes})).eval()
    quantizer = model.quantizer.semantic_residual_vector_quantizer
    with torch.no_grad():
        latents_BDF = model.encoder(0.1 * torch.randn(1, 1, 1920 * 200)).latents
        drawn_KD = quantizer.input_proj(latents_BDF)[0].T[torch.randperm(200)[: model.config.codebook_size]]
    quantizer.layers[0].codebook.embed_sum.copy_(drawn_KD)
    model.save_pretrained(path)
    return path


def s3_state(variant: str, num_layers: int | None = None) -> dict[str, Tensor]:
    """A state dict of one of the package's networks, of the published depth if not said otherwise, but narrow."""
    from s3tokenizer.model import ModelConfig, S3Tokenizer
    from s3tokenizer.model_v2 import ModelConfig as ModelConfigV2
    from s3tokenizer.model_v2 import S3TokenizerV2
    from s3tokenizer.model_v3 import ModelConfigV3, S3TokenizerV3

    sizes = {"n_audio_state": S3_WIDTH, "n_audio_head": S3_WIDTH // 64}
    sizes["n_audio_layer"] = num_layers or (12 if "v3" in variant else 6)
    torch.manual_seed(0)
    network: nn.Module
    if "v1" in variant:
        network = S3Tokenizer(variant, ModelConfig(**sizes))
    elif "v2" in variant:
        network = S3TokenizerV2(variant, ModelConfigV2(**sizes))
    else:
        network = S3TokenizerV3(variant, ModelConfigV3(**sizes))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("ln.bias"):
                tensor.normal_(0, 0.02)
        if "v1" in variant:
            # The package's tables compare directions; random ones around the network's own would be nearer.
            hidden_BFD, _ = network.encoder(torch.randn(2, 128, 700), torch.full((2,), 700))
            rows_ND = nn.functional.normalize(hidden_BFD.reshape(-1, S3_WIDTH), dim=-1)
            drawn = torch.randint(0, len(rows_ND), (4096,))
            network.quantizer._codebook.embed.copy_(rows_ND[drawn] + 0.001 * torch.randn(4096, S3_WIDTH))
        else:
            network.quantizer._codebook.project_down.weight.mul_(4)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def s3_onnx(path: Path, variant: str, state: Mapping[str, Tensor]) -> Path:
    """The weights as the published ONNX files hold them: by the names that the package's converter looks for.

    The nodes are those that carry weights; a graph that could be run has others between them.
    """
    import onnx
    from onnx import helper, numpy_helper

    nodes, initializers = [], []

    def add(op: str, node: str, initializer: str, tensor: Tensor, **attributes: Any) -> None:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), initializer))
        nodes.append(helper.make_node(op, ["x", initializer], ["y"], name=node, **attributes))

    first = {"speech_tokenizer_v1": 1519, "speech_tokenizer_v2_25hz": 2216, "speech_tokenizer_v3_25hz": 4000}.get(
        variant
    )
    for number in (1, 2):
        weight, bias = (f"encoder.conv{number}.{part}" for part in ("weight", "bias"))
        stride = 1 if (variant, number) == ("speech_tokenizer_v1", 1) else 2
        start = None if first is None else first + 2 * (number - 1)
        names = [
            f"encoders.conv{number}.{part}" if start is None else f"onnx::Conv_{start + place}"
            for place, part in enumerate(("weight", "bias"))
        ]
        initializers += [
            numpy_helper.from_array(state[one].numpy(), name) for one, name in zip((weight, bias), names, strict=True)
        ]
        nodes.append(helper.make_node("Conv", ["x", *names], ["y"], name=f"/conv{number}/Conv", strides=[stride]))
    for name, tensor in state.items():
        if name == "encoder.positional_embedding":
            add("Slice", "/Slice", "encoders.positional_embedding", tensor)
        elif name == "quantizer._codebook.embed":
            add("Pow", "/quantizer/rq/model/layers.0/_codebook/Pow_1", "onnx::Pow_1", tensor.T)
        elif name == "quantizer._codebook.project_down.weight":
            add("MatMul", "/quantizer/project_in/MatMul", "onnx::MatMul_2536", tensor.T)
        elif name == "quantizer._codebook.project_down.bias":
            add("Add", "/quantizer/project_in/Add", "quantizer.project_in.bias", tensor)
        elif name.startswith("encoder.blocks."):
            inner = name.removeprefix("encoder.")
            *parts, kind = inner.split(".")
            block, module = ".".join(parts[:2]), ".".join(parts[2:])
            node = f"/{block}/{module.replace('.', '/', 1)}".replace("/mlp/", "/mlp/mlp.")
            if module == "attn.fsmn_block":
                add("Conv", f"/{block}/attn/fsmn_block/Conv", inner, tensor, strides=[1])
            elif module.endswith("_ln"):
                op = "Mul" if kind == "weight" else "Add_1"
                add(op.partition("_")[0], f"{node}/{op}", f"{inner}.onnx", tensor)
            elif kind == "weight":
                add("MatMul", f"{node}/MatMul", f"{inner}.onnx", tensor.T)
            else:
                add("Add", f"{node}/Add", f"{inner}.onnx", tensor)
    graph = helper.make_graph(nodes, "tokenizer", [], [], initializers)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert isinstance(onnx.load(path), onnx.ModelProto)
    return path


def assert_units_do_not_depend_on_the_batch(tokenizer: Any, clips: list[np.ndarray[Any, Any]], order: Any) -> None:
    """Each clip alone against all of them in one call, in another order."""
    alone = [tokenizer.to("cpu").encode([clip])[0] for clip in clips]
    places = list(range(len(clips)))
    order.shuffle(places)
    together = tokenizer.encode([clips[place] for place in places])
    assert all(np.array_equal(codes, alone[place]) for place, codes in zip(places, together, strict=True))
    # Under this name a CPU takes the way of all devices: one padded batch. Its sums are taken in another order, so what
    # lies on the border of two codes may fall to either side; a fault in masking moves far more.
    padded = tokenizer.to("cpu:0").encode([clips[place] for place in places])
    assert [len(codes) for codes in padded] == [len(alone[place]) for place in places]
    moved = sum(int((codes != alone[place]).sum()) for place, codes in zip(places, padded, strict=True))
    assert moved <= 1 + sum(map(len, padded)) // 100

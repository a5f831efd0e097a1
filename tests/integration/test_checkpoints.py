"""A training state that N ranks saved goes on on M ranks, and under another ZeRO stage: every value is the same."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from cslm.lm import text_tokenizer, vocabulary
from cslm.train import checkpoint, export
from cslm.train.progress import Progress
from tests.data import ranks

IDENTITY = {"vocabulary": "abc", "packed": "p", "training": "t"}
BEFORE, AFTER = 2, 3


def whole_state(state):
    """Every value of the training state by (state, parameter), put together from all ranks."""
    sizes = {}
    found = {}
    for part in state.parts:
        for fragment in part.fragments():
            found[fragment.key, fragment.name] = (fragment.start, fragment.values.clone())
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    for one in everywhere:
        for label, (start, values) in one.items():
            sizes[label] = max(sizes.get(label, 0), start + values.numel())
    whole = {label: torch.full((size,), float("nan")) for label, size in sizes.items()}
    for one in everywhere:
        for label, (start, values) in one.items():
            whole[label][start : start + values.numel()] = values.float()
    return whole


def assert_averages(engine):
    """What is put together for the export is what the ranks hold, and neither the weights nor nothing."""
    whole = whole_state(engine.state)
    for name, parameter in engine.lm.named_parameters():
        with engine.gathered([parameter]):
            average = engine.state.average_of(parameter)
        if dist.get_rank() == 0:
            assert torch.equal(average.flatten(), whole["average", name]), name
            assert not torch.equal(whole["average", name], whole["master", name]), name


def begin(start, folder, case):
    """Train, save, train on: what the run that goes on is compared with."""
    engine = ranks.engine(start, *case)
    engine.state.start_average(0.9)
    ranks.steps(engine, 0, BEFORE)
    progress = Progress(step=BEFORE, tokens=7)
    saver = checkpoint.Saver(folder, engine.state, IDENTITY, keep_last=2)
    expected = whole_state(engine.state)
    saver(progress)
    losses = ranks.steps(engine, BEFORE, AFTER)  # while the files are written
    saver.wait()
    weights = ranks.gather(engine)
    assert_averages(engine)
    if dist.get_rank() == 0:
        torch.save({"state": expected, "losses": losses, "weights": weights}, Path(folder) / "expected.pt")
    return engine


def go_on(start, folder, case, exact):
    expected = torch.load(Path(folder) / "expected.pt")
    engine = ranks.engine(start, *case)
    engine.state.start_average(0.9)
    progress = checkpoint.restore(folder, engine.state, IDENTITY)
    assert (progress.step, progress.tokens) == (BEFORE, 7)
    found = whole_state(engine.state)
    assert found.keys() == expected["state"].keys()
    for label, values in expected["state"].items():
        assert torch.equal(found[label], values), label
    for name, weight in (ranks.gather(engine) or {}).items():
        master = expected["state"]["master", name].view(weight.shape)
        assert torch.equal(weight, master.to(weight.dtype)), name
    losses = ranks.steps(engine, BEFORE, AFTER)
    if exact:
        assert losses == expected["losses"]
        for name, weight in (ranks.gather(engine) or {}).items():
            assert torch.equal(weight, expected["weights"][name]), name
    else:
        tolerance = 1e-5 if case[1] == "fp32" else 2e-3
        assert losses == pytest.approx(expected["losses"], abs=tolerance)


OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
CASES = {
    "stage0": (0, "fp32", "adamw"),
    "stage1": (1, "fp32", "adamw"),
    "stage2": (2, "fp32", "adamw"),
    "stage3": (3, "fp32", "adamw"),
    "stage0-bf16": (0, "bf16", "adamw"),
    "stage2-bf16": (2, "bf16", "adamw"),
    "stage3-bf16": (3, "bf16", "adamw"),
    "stage2-muon": (2, "fp32", "muon"),
    "stage3-muon": (3, "fp32", "muon"),
    "stage3-muon-bf16": (3, "bf16", "muon"),
    # Many sub-groups; masters on the host; fp32 sums of bf16 gradients.
    "stage3-parts": (3, "fp32", "adamw", {"zero_optimization": {"sub_group_size": 5000}}),
    "stage3-offload": (3, "bf16", "adamw", OFFLOAD),
    "stage2-offload": (2, "bf16", "adamw", OFFLOAD),
    "stage1-sums": (1, "bf16", "adamw", {"data_types": {"grad_accum_dtype": "fp32"}}),
}
# Saved on N ranks, goes on on M, and these (saved as, goes on as).
SAME = [(case, case) for case in CASES]
FEW = [(case, case) for case in ("stage3", "stage3-bf16", "stage2")]
ACROSS = [("stage3", "stage2"), ("stage2", "stage3"), ("stage0", "stage3"), ("stage3", "stage0"), ("stage1", "stage3")]
ACROSS += [("stage2-bf16", "stage3-bf16"), ("stage2-muon", "stage3-muon"), ("stage3-muon", "stage2-muon")]
SLOW = {(n, m): FEW for n in (1, 2, 4) for m in (1, 2, 4)} | {(2, 2): SAME + ACROSS, (2, 1): SAME, (1, 2): SAME}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return ranks.write_model(tmp_path_factory.mktemp("model") / "start")


def begin_all(start, root, cases):
    for case in cases:
        (Path(root) / case).mkdir(exist_ok=True)
        engine = begin(start, f"{root}/{case}", CASES[case])
        tokenizer, layout = text_tokenizer.load(start), vocabulary.load(start)
        export.write(f"{root}/{case}/model", engine, tokenizer, layout, shard_bytes=100_000)


def go_on_all(start, root, size, pairs):
    for saved, case in pairs:
        exact = saved == case and size == dist.get_world_size()
        go_on(start, f"{root}/{saved}", CASES[case], exact)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("saved_on", "goes_on_on", "pairs"),
    [pytest.param(2, 1, [("stage3", "stage3"), ("stage3", "stage2"), ("stage3-bf16", "stage3-bf16")], id="2-1-quick")]
    + [
        pytest.param(*sizes, pairs, id="-".join(map(str, sizes)), marks=pytest.mark.slow)
        for sizes, pairs in SLOW.items()
    ],
)
def test_a_saved_state_goes_on_anywhere(start, tmp_path, saved_on, goes_on_on, pairs):
    cases = sorted({saved for saved, _ in pairs})
    ranks.run(saved_on, begin_all, start, str(tmp_path), cases)
    ranks.run(goes_on_on, go_on_all, start, str(tmp_path), saved_on, pairs)
    for case in cases:
        output = tmp_path / case
        assert checkpoint.complete_steps(str(output)) == [BEFORE]
        # Nothing but safetensors, which the library opens, and JSON.
        folder = Path(checkpoint.step_folder(str(output), BEFORE))
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
        marker = json.loads((folder / "rank-00000.json").read_text())
        with safe_open(folder / "rank-00000.safetensors", "pt") as file:
            assert set(file.keys()) == {f"{key}/{name}" for name, key, *_ in marker["fragments"]}
        # What all ranks exported together is the model, as transformers reads it.
        assert len(list((output / "model").glob("model-*.safetensors"))) > 1
        exported = AutoModelForCausalLM.from_pretrained(output / "model", dtype="auto").state_dict()
        weights = torch.load(output / "expected.pt")["weights"]
        assert exported.keys() == weights.keys()
        assert all(torch.equal(exported[name], weight) for name, weight in weights.items())

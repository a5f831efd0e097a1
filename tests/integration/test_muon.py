"""Muon under ZeRO-3 on two ranks: exchanging at once gives the weights that DeepSpeed's own exchange gives."""

from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from cslm.train import muon
from tests.data import ranks

PRECISIONS = ("fp32", "bf16")


def trained(start, precision, folder):
    """Three steps of a small model on this rank; rank 0 writes the weights."""
    engine = ranks.engine(start, 3, precision, "muon")
    ranks.steps(engine, 0, 3)
    weights = ranks.gather(engine)
    momenta = [one.values.clone() for part in engine.state.parts for one in part.fragments() if "moment" in one.key]
    torch.save(momenta, Path(folder) / f"momenta-{dist.get_rank()}.pt")
    if weights is not None:
        torch.save(weights, Path(folder) / "weights.pt")


def both_ways(start, folder):
    ours = muon.exchange_at_once
    for precision in PRECISIONS:
        for name, exchange in (("ours", ours), ("deepspeed", lambda *_: None)):
            muon.exchange_at_once = exchange
            trained(start, precision, Path(folder) / precision / name)


def test_weights_and_states_are_those_of_deepspeeds_exchange(tmp_path):
    start = ranks.write_model(tmp_path / "start")
    for precision in PRECISIONS:
        for name in ("ours", "deepspeed"):
            (tmp_path / precision / name).mkdir(parents=True)
    ranks.run(2, both_ways, start, str(tmp_path))
    begun = dict(AutoModelForCausalLM.from_pretrained(start).named_parameters())
    for precision in PRECISIONS:
        assert_same([tmp_path / precision / name for name in ("ours", "deepspeed")], begun)


def assert_same(folders, begun):
    ours, theirs = (torch.load(folder / "weights.pt") for folder in folders)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
        if "layers" in name and weight.ndim == 2:
            assert not torch.equal(weight.float(), begun[name].detach()), name
    for rank in range(2):
        momenta = [torch.load(folder / f"momenta-{rank}.pt") for folder in folders]
        assert momenta[0]
        for mine, other in zip(*momenta, strict=True):
            assert torch.equal(mine, other)

"""Muon under ZeRO-3 on two ranks: exchanging at once gives the weights that DeepSpeed's own exchange gives."""

import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cslm.data.feed import Batch
from cslm.lm import model as lm_model
from cslm.lm import text_tokenizer
from cslm.lm.model import ModelSection
from cslm.train import muon
from cslm.train.build import Recipe
from cslm.train.engine import ZeroEngine
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config

PRECISIONS = ("fp32", "bf16")


def trained(rank, start, precision, folder):
    """Three steps of a small model on this rank; rank 0 writes the weights."""
    config = deepspeed_config(
        DeepSpeedSection(precision=precision),
        OptimizerSettings("muon", 1e-3, 0.02, (0.9, 0.95), 0.0, 1.0),
        rows_per_step=2,
        micro_batch_rows=1,
        world_size=2,
        on_cpu=True,
    )
    engine = ZeroEngine(start, config, 1, torch.device("cpu"), Recipe(embedding_learning_rate=1e-3))
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + rank)
        ids = torch.randint(0, 300, (1, 24), generator=generator)
        engine.accumulate(Batch(ids, torch.arange(24)[None], ids.roll(-1, 1), torch.zeros_like(ids)), 48)
        engine.step(1.0)
    weights = engine.gather()
    momenta = [one.values.clone() for part in engine.state.parts for one in part.fragments() if "moment" in one.key]
    torch.save(momenta, Path(folder) / f"momenta-{rank}.pt")
    if rank == 0:
        torch.save(weights, Path(folder) / "weights.pt")
    dist.barrier()


def both_ways(rank, port, start, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    ours = muon.exchange_at_once
    for precision in PRECISIONS:
        for name, exchange in (("ours", ours), ("deepspeed", lambda *_: None)):
            muon.exchange_at_once = exchange
            trained(rank, start, precision, Path(folder) / precision / name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_weights_and_states_are_those_of_deepspeeds_exchange(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    tokenizer = text_tokenizer.train(["one two three"] * 3, vocab_size=320)
    layout = lm_model._extend(tokenizer, 10, "abc", 25.0)
    torch.manual_seed(0)
    start = str(tmp_path / "start")
    model = lm_model._from_shape(ModelSection(shape="micro"), tokenizer, layout)
    # Blocks that begin at zero would have gradients of zero.
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    lm_model.save(start, model, tokenizer, layout)
    for precision in PRECISIONS:
        for name in ("ours", "deepspeed"):
            (tmp_path / precision / name).mkdir(parents=True)
    mp.spawn(both_ways, args=(free_port(), start, str(tmp_path)), nprocs=2)
    for precision in PRECISIONS:
        assert_same([tmp_path / precision / name for name in ("ours", "deepspeed")], dict(model.named_parameters()))


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

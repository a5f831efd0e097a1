"""Training on one GPU: model FLOPs utilisation of whole optimizer steps, and the head's loss against Liger Kernel's.

Models of published shapes with random weights, in bf16, on rows of 4,096 tokens: the time of a step does not depend on
what the weights are. Needs no Ray: the engine is what is measured.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import IGNORE, Batch
from cslm.lm import packing
from cslm.lm.lora import LoraSection
from cslm.train.build import Recipe
from cslm.train.compute import ComputeSection
from cslm.train.engine import ZeroEngine
from cslm.train.flops import ModelFlops, peak_flops
from cslm.train.linear_cross_entropy import linear_cross_entropy
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config
from tests.benchmarks._train_data import length
from tests.data import ranks

ROW_LENGTH = 4096
# Llama 3's text ids, 4,096 units and the marks, in whole tiles.
VOCABULARY = 132_416
LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One way to train: what is sharded, how layers are computed, rows at a time and in a step."""

    name: str
    shape: dict[str, int | bool]
    zero_stage: int
    computing: ComputeSection
    rows: str = "mix"
    micro_batch_rows: int = 4
    rows_per_step: int = 16
    lora: LoraSection = field(default_factory=LoraSection)
    offload: Literal["none", "cpu"] = "none"


CASES = [
    Case("1B, ZeRO-1, compiled", LLAMA_1B, 1, ComputeSection(compile=True)),
    Case("1B, ZeRO-1, compiled, full rows", LLAMA_1B, 1, ComputeSection(compile=True), rows="full"),
    Case("1B, ZeRO-3, torch", LLAMA_1B, 3, ComputeSection(kernels="torch")),
    Case("1B, ZeRO-1, liger", LLAMA_1B, 1, ComputeSection(kernels="liger")),
    Case("1B, ZeRO-3, liger", LLAMA_1B, 3, ComputeSection(kernels="liger")),
    Case("1B, ZeRO-3, liger, full rows", LLAMA_1B, 3, ComputeSection(kernels="liger"), rows="full"),
    Case("1B, ZeRO-3, liger, recomputed", LLAMA_1B, 3, ComputeSection(kernels="liger", recompute_every=1)),
    Case(
        "8B, ZeRO-3, liger, LoRA 64",
        LLAMA_8B,
        3,
        ComputeSection(kernels="liger", recompute_every=1),
        rows_per_step=8,
        lora=LoraSection(rank=64, alpha=128),
    ),
    Case("1B, ZeRO-3, liger, states on the host", LLAMA_1B, 3, ComputeSection(kernels="liger"), offload="cpu"),
]


def measure(names: list[str] | None = None, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Run the cases whose names contain one of `names`, print a line for each and return the figures.

    Each has a process of its own: what DeepSpeed and Liger Kernel leave behind in one would count for the next.
    """
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if not names or "head" in names:
            found["head"] = _in_a_process(heads)
        chosen = [case for case in CASES if not names or any(name in case.name for name in names)]
        for case in chosen[:2] if quick else chosen:
            folder = Path(temporary) / str([one.shape for one in CASES].index(case.shape))
            if not folder.exists():
                _in_a_process(_save_random, case.shape, str(folder))
            found[case.name] = _in_a_process(measured, case, str(folder), 3 if quick else 6)
    return found


def _in_a_process(work: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    context = mp.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_put, args=(results, work, arguments))
    process.start()
    process.join()
    return results.get() if process.exitcode == 0 else {}


def _put(results: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        results.put(work(torch.device("cuda", 0), *arguments))
    except torch.OutOfMemoryError as error:
        print(f"out of memory: {error}", flush=True)
        results.put({})


def measured(device: torch.device, case: Case, folder: str, steps: int) -> dict[str, float]:
    """Tokens a second, MFU and memory of whole steps, and the share of forward and backward in them."""
    ranks.join_alone("nccl")
    peak, how = peak_flops(device, torch.bfloat16)
    started_s = time.perf_counter()
    config = deepspeed_config(
        DeepSpeedSection(zero_stage=case.zero_stage, offload=case.offload),
        OptimizerSettings("adamw", 1e-5, 0.02, (0.9, 0.95), 0.0, 1.0),
        rows_per_step=case.rows_per_step,
        micro_batch_rows=case.micro_batch_rows,
        world_size=1,
        on_cpu=False,
    )
    engine = ZeroEngine(folder, config, 1, device, Recipe(lora=case.lora, compute=case.computing))
    batches = rows(case)
    flops, targets = ModelFlops.of(engine.lm), sum(batch.num_targets for batch in batches)
    work = sum(flops.of_batch(batch) for batch in batches)
    tokens = sum(batch.num_tokens for batch in batches)
    whole_s, forward_s, losses = [], [], []
    for step in range(steps + 2):
        torch.cuda.synchronize()
        begun_s = time.perf_counter()
        sums = [engine.accumulate(batch, targets) for batch in batches]
        torch.cuda.synchronize()
        computed_s = time.perf_counter()
        engine.step(1.0)
        torch.cuda.synchronize()
        if step >= 2:  # the first steps compile and allocate
            whole_s.append(time.perf_counter() - begun_s)
            forward_s.append(computed_s - begun_s)
        losses.append(float(sum(one[0].sum() for one in sums) / targets))
    step_s = statistics.median(whole_s)
    figures = {
        "mfu": work / step_s / peak,
        "tokens_per_s": tokens / step_s,
        "step_s": step_s,
        "forward_backward_s": statistics.median(forward_s),
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }
    print(
        f"{case.name:<36} MFU {figures['mfu']:.3f}  {figures['tokens_per_s']:>9,.0f} tokens/s  step {step_s:.3f} s "
        f"(forward and backward {figures['forward_backward_s']:.3f})  {figures['memory_gb']:.1f} GB  "
        f"(of {peak / 1e12:,.0f} TFLOP/s, {how})  "
        f"loss {losses[0]:.2f} -> {losses[-1]:.2f}  set-up {time.perf_counter() - started_s - sum(whole_s):.0f} s",
        flush=True,
    )
    return {name: round(value, 4) for name, value in figures.items()}


def rows(case: Case) -> list[Batch]:
    """The micro batches of a step: packed examples of the pre-training mix, or one text a row with loss everywhere."""
    if case.rows == "full":
        laid, share = [[ROW_LENGTH]] * case.rows_per_step, 1.0
    else:
        draw, lengths = random.Random(0), list[int]()
        while sum(lengths) < case.rows_per_step * ROW_LENGTH:
            lengths.append(length("mixed", draw))
        laid = [[lengths[item] for item in row] for row in packing.best_fit(lengths, ROW_LENGTH)][: case.rows_per_step]
        share = 0.5
    size = case.micro_batch_rows
    return [_batch(laid[start : start + size], share) for start in range(0, len(laid), size)]


def _batch(laid: list[list[int]], share: float) -> Batch:
    """Rows of segment lengths; `share` of each segment, its end, is what is learned."""
    generator = torch.Generator().manual_seed(len(laid[0]))
    input_ids = torch.randint(0, VOCABULARY, (len(laid), ROW_LENGTH), generator=generator)
    position_ids = torch.zeros_like(input_ids)
    labels, group_ids = torch.full_like(input_ids, IGNORE), torch.full_like(input_ids, -1)
    for row, lengths in enumerate(laid):
        start = 0
        for size in lengths:
            end, first = start + size, start + round(size * (1 - share))
            position_ids[row, start:end] = torch.arange(size)
            group_ids[row, start:end] = 0
            labels[row, first : end - 1] = input_ids[row, first + 1 : end]
            start = end
        position_ids[row, start:] = torch.arange(ROW_LENGTH - start)
    return Batch(input_ids, position_ids, labels, group_ids)


def heads(device: torch.device) -> dict[str, float]:
    """Time and memory of the head's loss, forward and backward, for 16,384 targets: ours, Liger Kernel's, plain."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    hidden = torch.randn(16_384, 2048, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(VOCABULARY, 2048, device=device) * 0.02).bfloat16().requires_grad_()
    labels = torch.randint(0, VOCABULARY, (16_384,), device=device)

    def ours() -> torch.Tensor:
        return linear_cross_entropy(hidden, weight, labels)[0]

    def ligers() -> torch.Tensor:
        arguments = (None, None, -100, 0.0, 0.0, "sum")
        result = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels, *arguments)
        return result[0] if isinstance(result, tuple) else result

    def plain() -> torch.Tensor:
        return torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")

    found = {}
    for name, loss in (("ours", ours), ("liger", ligers), ("plain", plain)):
        seconds, memory = _timed(loss, hidden, weight)
        found |= {f"{name}_ms": round(1e3 * seconds, 1), f"{name}_gb": round(memory / 1e9, 2)}
        print(
            f"head, 16,384 targets of {VOCABULARY:,}: {name:<6} {1e3 * seconds:8.1f} ms {memory / 1e9:8.2f} GB",
            flush=True,
        )
    return found


def _timed(loss: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> tuple[float, float]:
    times = []
    for _ in range(6):
        for tensor in inputs:
            tensor.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, started_s = torch.cuda.memory_allocated(), time.perf_counter()
        loss().backward()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times[2:]), torch.cuda.max_memory_allocated() - before


def _save_random(device: torch.device, shape: dict[str, int | bool], folder: str) -> dict[str, float]:
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=ROW_LENGTH, rope_theta=500_000.0, **shape)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return {}

"""Useful tokens a second of both sides in turns on the same two ranks, and where our step's time goes.

Of both a stretch of optimizer steps is timed at a time, engine and warm-up left out. The bare model runs on the very
batches of our stretch, both ranks at once; of each batch the slower rank counts, as both wait for it in a step. Useful
tokens are those that are not padding.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from tests.benchmarks import _train_recipe
from tests.benchmarks._train_data import MIXES, QUICK_MIXES, examples_of, write_packed
from tests.benchmarks._train_ours import Bare, Ours

_WARM_UP = 1
# ZeRO stage of the usual recipe, as its authors run it.
_RECIPE_STAGE = 2
Turns = list[dict[str, float]]


def measure(root: Path, model_folder: str, quick: bool) -> dict[str, Any]:
    """On every rank: rates by mix and case, and the share of times. Rank 0 prints."""
    steps, turns = (2, 2) if quick else (5, 5)
    found: dict[str, Any] = {}
    for name, mix in (QUICK_MIXES if quick else MIXES).items():
        examples = examples_of(name, 1000)
        packed = root / name
        if dist.get_rank() == 0:
            filled = write_packed(packed, examples, mix.row_length)
            print(f"\n{name}: rows of {mix.row_length} tokens are {filled:.1%} full", flush=True)
        dist.barrier()
        bare = Bare(model_folder)
        sides = {stage: Ours(model_folder, str(packed), mix, stage) for stage in (3, 2)}
        recipe: dict[int, Turns] = {2: [], 8: []}
        ours: dict[int, Turns] = {stage: [] for stage in sides}
        for side in sides.values():
            side.stretch(_WARM_UP)
        for turn in range(turns):
            for micro, taken in recipe.items():
                taken.append(
                    _recipe_stretch(model_folder, examples, str(root / "trainer"), micro, mix.examples, steps, turn)
                )
            for stage, side in sides.items():
                first = side.step
                taken_s = side.stretch(steps)
                batches = [batch for step in range(first, first + steps) for batch in side.feed.batches(step)]
                mean_s, slower_s = bare.seconds(batches)
                ours[stage].append(taken_s | {"bare_mean_s": mean_s, "bare_s": slower_s})
        found[name] = _tell(recipe, ours)
    return found


def _recipe_stretch(
    model_folder: str, examples: list[Any], folder: str, micro: int, batch: int, steps: int, seed: int
) -> dict[str, float]:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    ends_s, useful = _train_recipe.train(
        model,
        examples,
        folder,
        stage=_RECIPE_STAGE,
        micro_batch=micro,
        batch=batch,
        steps=_WARM_UP + steps,
        seed=seed,
    )
    return {"tokens": sum(useful[_WARM_UP:]), "s": ends_s[-1] - ends_s[_WARM_UP - 1]}


def _tell(recipe: dict[int, Turns], ours: dict[int, Turns]) -> dict[str, Any]:
    rates = {f"Trainer + ZeRO-{_RECIPE_STAGE}, micro batch {micro}": _rate(taken) for micro, taken in recipe.items()}
    best = max(rates.values())
    rates |= {f"ours, ZeRO-{stage}": _rate(taken) for stage, taken in ours.items()}
    every = [turn for taken in ours.values() for turn in taken]
    rates["bare model, forward and backward"] = _rate(every, "bare_s")
    found: dict[str, Any] = {"over_trainer": {}, "over_bare": {}, "data_wait_fraction": 0.0}
    for stage, taken in ours.items():
        found["over_trainer"][stage] = _rate(taken) / best
        found["over_bare"][stage] = _over(taken, "step_s")
    found["data_wait_fraction"] = statistics.median(turn["wait_s"] / turn["s"] for turn in every)
    if dist.get_rank() == 0:
        for name, rate in rates.items():
            print(f"  {name:<44}{rate:>8,.0f} useful tokens/s{rate / best:>8.2f} x the better recipe")
        for stage, taken in ours.items():
            step_s = statistics.median(turn["step_s"] / turn["s"] for turn in taken)
            print(
                f"  ours, ZeRO-{stage}: {step_s:.1%} of the time in the optimizer's step; without it"
                f" {found['over_bare'][stage]:.3f} x the bare model, with its norm, clipping and gathering but without"
                f" the update {_over(taken, 'update_s'):.3f} x"
                f" ({_over(taken, 'update_s', 'bare_mean_s'):.3f} x the mean of the bare model's ranks)"
            )
        print(f"  waiting for data: {found['data_wait_fraction']:.3%} of the time", flush=True)
    return found


def _over(turns: Turns, without: str, bare: str = "bare_s") -> float:
    """Our time without a part of it over the bare model's."""
    return statistics.median((turn["s"] - turn[without]) / turn[bare] for turn in turns)


def _rate(turns: Turns, of: str = "s") -> float:
    return statistics.median(turn["tokens"] / turn[of] for turn in turns)

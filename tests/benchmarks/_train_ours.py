"""Our side: engine, feed and loop over packed rows, with clocks on parts of a step, and the bare model beside it."""

import logging
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging as transformers_logging

from cslm.data.feed import Batch, PackedFeed
from cslm.lm import model as lm_model
from cslm.train.build import Recipe
from cslm.train.engine import ZeroEngine
from cslm.train.guard import Step
from cslm.train.loop import TrainSection, train
from cslm.train.objective import PackedObjective
from cslm.train.progress import Progress
from cslm.train.zero import DeepSpeedSection, OptimizerSettings, deepspeed_config
from tests.benchmarks._train_data import VOCABULARY_HASH, Mix

CPU = torch.device("cpu")


def quiet() -> None:
    """Leave out what libraries tell; load them, too, which takes most of the start."""
    import deepspeed.utils

    warnings.filterwarnings("ignore")
    deepspeed.utils.logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()


class Clocked(ZeroEngine):
    """The engine with the time that the optimizer's own update of the weights took."""

    update_s = 0.0
    step_s = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What PyTorch's optimizer does to this rank's share of the weights: neither norm, clipping, nor exchange.
        inner = getattr(self._optimizer, "optimizer", self._optimizer)
        update = inner.step

        def timed(*arguments: Any, **named: Any) -> Any:
            started_s = time.perf_counter()
            result = update(*arguments, **named)
            self.update_s += time.perf_counter() - started_s
            return result

        inner.step = timed

    def step(self, *arguments: Any, **named: Any) -> Step:
        """As the engine's, timed."""
        started_s = time.perf_counter()
        step = super().step(*arguments, **named)
        self.step_s += time.perf_counter() - started_s
        return step


def feed_of(packed: str, mix: Mix, seed: int = 0, vocabulary: str = VOCABULARY_HASH) -> PackedFeed:
    """The feed of this rank."""
    return PackedFeed(
        packed,
        row_length=mix.row_length,
        rows_per_step=mix.rows,
        micro_batch_rows=mix.micro_rows,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        seed=seed,
        pad_id=0,
        vocabulary=vocabulary,
    )


def engine_of(model_folder: str, section: TrainSection, num_groups: int, stage: int) -> Clocked:
    """The engine of this rank, bf16."""
    settings = OptimizerSettings(
        section.optimizer,
        section.learning_rate,
        section.muon_learning_rate,
        (0.9, section.adam_beta2),
        section.weight_decay,
        section.max_grad_norm,
    )
    config = deepspeed_config(
        DeepSpeedSection(zero_stage=stage),
        settings,
        rows_per_step=section.rows_per_step,
        micro_batch_rows=section.micro_batch_rows,
        world_size=dist.get_world_size(),
        on_cpu=True,
    )
    return Clocked(
        model_folder,
        config,
        num_groups,
        CPU,
        Recipe(embedding_learning_rate=section.embedding_learning_rate),
    )


class Ours:
    """A training that goes on a stretch of steps at a time."""

    def __init__(self, model_folder: str, packed: str, mix: Mix, stage: int) -> None:
        self.feed = feed_of(packed, mix)
        self._section = TrainSection(rows_per_step=mix.rows, micro_batch_rows=mix.micro_rows, log_every_steps=10**6)
        self._engine = engine_of(model_folder, self._section, len(self.feed.groups), stage)
        self._progress = Progress()

    @property
    def step(self) -> int:
        """The step that comes next."""
        return self._progress.step

    def stretch(self, steps: int) -> dict[str, float]:
        """Train on; useful tokens over all ranks and seconds: in all, of waiting, of the step, of the update."""
        engine, reported = self._engine, []
        engine.update_s = engine.step_s = 0.0
        before = self._progress.tokens
        started_s = time.perf_counter()
        self._progress = train(
            engine,
            self.feed,
            self._section,
            self._progress.step + steps,
            self._progress,
            report=lambda _, figures: reported.append(figures),
            checkpoint=lambda _: None,
        )
        taken_s = time.perf_counter() - started_s
        return {
            "tokens": self._progress.tokens - before,
            "s": taken_s,
            "wait_s": reported[-1]["time/data_wait_fraction"] * taken_s,
            "step_s": engine.step_s,
            "update_s": engine.update_s,
        }


class Bare:
    """The same model and loss in plain PyTorch: forward and backward, nothing exchanged, nothing updated."""

    def __init__(self, model_folder: str, num_groups: int = 1) -> None:
        # While an engine of ZeRO-3 lives, transformers would shard what it loads.
        unset_hf_deepspeed_config()
        self._objective = PackedObjective(lm_model.load(model_folder, torch.bfloat16, packed=True), num_groups)

    def seconds(self, batches: list[Batch]) -> tuple[float, float]:
        """Time of forward and backward over the batches, both ranks side by side: (mean of the ranks, slower rank's).

        The second counts of each batch the rank that took longer: a step of both is done when the slower one is.
        """
        taken = []
        for batch in batches:
            dist.barrier()
            started_s = time.perf_counter()
            self._objective(batch)[0].backward()
            taken.append(time.perf_counter() - started_s)
            self._objective.zero_grad(set_to_none=True)
        own_S = torch.tensor(taken, dtype=torch.float64)
        slower_S = own_S.clone()
        dist.all_reduce(own_S)
        dist.all_reduce(slower_S, op=dist.ReduceOp.MAX)
        return float(own_S.sum()) / dist.get_world_size(), float(slower_S.sum())

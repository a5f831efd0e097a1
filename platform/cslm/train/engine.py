"""DeepSpeed behind five names: accumulate, step, evaluate, gathered, and state, which is saved and restored.

The only module that imports deepspeed.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from cslm.data.feed import Batch
from cslm.train import collectives, muon
from cslm.train.build import Recipe, build
from cslm.train.compute import layer_classes
from cslm.train.deepspeed_file import set_scheduler
from cslm.train.gate import Gate
from cslm.train.guard import Step
from cslm.train.shards import TrainingState
from cslm.train.zero import stage_of


class ZeroEngine:
    """A causal LM under DeepSpeed ZeRO on this rank of an initialised process group."""

    def __init__(
        self,
        model_folder: str,
        config: dict[str, Any],
        num_groups: int,
        device: torch.device,
        recipe: Recipe | None = None,
    ) -> None:
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
            # Compiling Muon's few small products takes a minute on a core and wins nothing there.
            torch._dynamo.config.disable = True
            # DeepSpeed asks in each step how many devices there are, and finds out by running numactl if not told.
            os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
        import deepspeed
        from deepspeed.runtime.comm import coalesced_collectives

        # Its shared-memory op serves inference only, and building it takes a core most of a minute on a new machine.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.device = device
        self._accumulation = int(config["gradient_accumulation_steps"])
        self._world_size = dist.get_world_size()
        deepspeed.init_distributed(dist_backend=dist.get_backend())
        self._built = build(model_folder, config, num_groups, device, recipe or Recipe())
        self.lm = self._built.lm
        if stage_of(config) == 3:
            collectives.exchange_and_add(coalesced_collectives)
            collectives.gather_together(deepspeed.zero.Init)
            # A layer is gathered as one: hooks at each of its dozen parts cost more than they could overlap.
            deepspeed.utils.set_z3_leaf_modules(self.lm, layer_classes(self.lm))
        self._engine, self._optimizer, _, self._scheduler = deepspeed.initialize(
            model=self._built.objective, model_parameters=self._built.groups, config=config
        )
        if stage_of(config) == 3 and config["optimizer"]["type"] == "Muon":
            from deepspeed.runtime.zero.muon.original_muon import muon_update

            muon.exchange_at_once(self._optimizer, muon_update)
        self._state: TrainingState | None = None
        self._gate = Gate(self._engine)
        self._peaks = [parameters["lr"] for parameters in self._optimizer.param_groups]
        self._decays = [parameters.get("weight_decay", 0.0) for parameters in self._optimizer.param_groups]
        self._scheduled = 0

    def accumulate(self, batch: Batch, num_targets: int | Callable[[], int]) -> torch.Tensor:
        """Forward and backward of one micro batch; the gradient is that of the sum of losses over `num_targets`.

        `num_targets` counts the whole step, all ranks and micro batches; a call that may have to wait for the others'
        is made behind the forward pass. Returns [2, num_groups] sums and counts.
        """
        self._begin_step()
        loss, per_group = self._engine(batch.to(self.device, varlen=self._built.varlen))
        targets = num_targets() if callable(num_targets) else num_targets
        # DeepSpeed divides by the accumulation and averages over the ranks; both are undone here.
        self._engine.backward(loss * (self._world_size * self._accumulation / targets))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return torch.as_tensor(per_group)

    def step(self, scale: float, *, keep: bool = True, norm_limit: float = math.inf) -> Step:
        """Apply the accumulated gradient at `scale` times the peak learning rates, and say what became of it.

        Without `keep`, and where its norm is not finite or above `norm_limit`, the gradient is thrown away and nothing
        of the training state changes. All ranks must give the same.
        """
        if self._scheduler is None:
            for parameters, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                parameters["lr"] = peak * scale
        self._gate.set(keep=keep, norm_limit=norm_limit)
        self._engine.step()
        if self._gate.result.applied:
            self.state.advance_average()
        self._scheduled = self._steps_done()
        return self._gate.result

    def rates(self) -> dict[str, float]:
        """The learning rates that the last step had, also those of a DeepSpeed scheduler."""
        groups = self._optimizer.param_groups
        others = [float(group["lr"]) for group in groups if not group.get("use_muon")]
        muon_rates = [float(group["lr"]) for group in groups if group.get("use_muon")]
        # The embeddings come first, unless they are not trained.
        told = {"learning_rate": others[-1], "embedding_learning_rate": others[0]} if others else {}
        return told | ({"muon_learning_rate": muon_rates[0]} if muon_rates else {})

    @torch.no_grad()
    def evaluate(self, batch: Batch, num_groups: int) -> torch.Tensor:
        """Forward of one batch: sums and counts of `num_groups` groups, [2, num_groups]; all ranks must call."""
        self._engine.eval()
        _, per_group = self._engine(batch.to(self.device, varlen=self._built.varlen), num_groups)
        self._engine.train()
        return torch.as_tensor(per_group)

    def _begin_step(self) -> None:
        """Bring what goes by the number of steps to where training stands, also after a restore."""
        frozen = self._built.freezer.begin_step(self._engine.global_steps)
        for parameters, decay in zip(self._optimizer.param_groups, self._decays, strict=True):
            parameters["weight_decay"] = 0.0 if frozen else decay
        if self._scheduler is not None and self._scheduled != self._steps_done():
            self._scheduled = self._steps_done()
            set_scheduler(self._scheduler, self._scheduled)

    def _steps_done(self) -> int:
        return int(self._engine.global_steps - self._engine.skipped_steps)

    @property
    def state(self) -> TrainingState:
        """What this rank holds of the training state, to be saved and restored."""
        if self._state is None:
            self._state = TrainingState(self._engine)
        return self._state

    @contextmanager
    def gathered(self, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
        """The whole values of some parameters in their `data` as long as the block lasts; all ranks must call."""
        if self._engine.zero_optimization_stage() != 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

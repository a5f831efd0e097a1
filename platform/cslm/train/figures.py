"""What is told of the steps since the last figures: speed, waiting, arithmetic, memory, over all ranks.

Losses are counted in `Progress`, since they must not change by an interruption. What is here is of this process alone:
after a resume, speed is that of the steps that it made itself.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import psutil
import torch
import torch.distributed as dist

from cslm.data.feed import Batch
from cslm.train.progress import Progress


@dataclass(frozen=True)
class StepCounts:
    """A step over all ranks: positions with loss, tokens, positions of its rows, and whether a rank is leaving."""

    targets: int
    tokens: int
    places: int
    leaving: bool


class Meter:
    """Counts steps and says what they came to.

    `flops` gives the operations of forward and backward of a batch, `peak_flops` those that one rank's device could do
    in a second; without them no MFU is told.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        flops: Callable[[Batch], float] = lambda batch: 0.0,
        peak_flops: float = 0.0,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._flops = flops
        self._world_size = dist.get_world_size()
        self._peak_flops = peak_flops * self._world_size
        self._process = psutil.Process()
        self._begin()

    def count(self, batches: Sequence[Batch], wait_s: float, leaving: bool) -> Callable[[], StepCounts]:
        """Count a step's batches and the time that this rank waited for them; all ranks must call.

        The ranks' counts are on their way while the model computes: what is returned waits for them when first called.
        """
        tokens = sum(batch.num_tokens for batch in batches)
        places = sum(batch.input_ids.numel() for batch in batches)
        flops = sum(self._flops(batch) for batch in batches)
        own = [sum(batch.num_targets for batch in batches), tokens, places, flops, wait_s, leaving]
        # Counts stay whole numbers in 53 bits.
        sums = torch.tensor(own, dtype=torch.float64, device=self._device)
        arriving = dist.all_reduce(sums, async_op=True)

        @cache
        def arrived() -> StepCounts:
            arriving.wait()
            targets, tokens, places, flops, waited_s, num_leaving = sums.tolist()
            self._steps += 1
            self._tokens += tokens
            self._places += places
            self._done_flops += flops
            self._wait_s += waited_s / self._world_size
            return StepCounts(int(targets), int(tokens), int(places), num_leaving > 0)

        return arrived

    def leave_out(self, seconds: float) -> None:
        """Time that is not training's: evaluation."""
        self._started_s += seconds

    def take(self, progress: Progress) -> dict[str, float]:
        """The figures of the steps since the last call, added to the work that `progress` counts."""
        elapsed_s = time.perf_counter() - self._started_s
        progress.train_s += elapsed_s
        work = {"wait_s": self._wait_s, "places": self._places, "flops": self._done_flops}
        work["peak"] = self._peak_flops * elapsed_s
        progress.work = {name: progress.work.get(name, 0.0) + value for name, value in work.items()}
        told = {
            "throughput/tokens_per_s": self._tokens / elapsed_s,
            "throughput/tokens_with_padding_per_s": self._places / elapsed_s,
            "time/data_wait_fraction": self._wait_s / elapsed_s,
            "time/step_s": elapsed_s / max(self._steps, 1),
            "data/packing_efficiency": self._tokens / max(self._places, 1),
            **self._memory(),
        }
        if self._peak_flops:
            told["throughput/mfu"] = self._done_flops / (self._peak_flops * elapsed_s)
        self._begin()
        return told

    def _begin(self) -> None:
        self._started_s = time.perf_counter()
        self._steps = 0
        self._tokens = self._places = self._done_flops = self._wait_s = 0.0

    def _memory(self) -> dict[str, float]:
        """Memory of the rank that takes most."""
        own = {"memory/process_bytes": float(self._process.memory_info().rss)}
        if self._device.type == "cuda":
            own["memory/device_peak_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        most = torch.tensor(list(own.values()), dtype=torch.float64, device=self._device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return dict(zip(own, most.tolist(), strict=True))

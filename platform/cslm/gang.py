"""Workers of a training are asked for all at once, and what is waited for is told.

A training that began with some of its workers would hold them, idle and paid for, until the others come. So the whole
group is asked of Ray as one placement group, which an autoscaler starts nodes for; training begins when it is there.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.util.placement_group import placement_group, remove_placement_group

from cslm import cluster, storage
from cslm.config import Section, setting
from cslm.errors import CslmError

if TYPE_CHECKING:
    from ray.train import ScalingConfig

# These settings change nothing of what is learned: a run goes on when they are changed.
SETTINGS = {"accelerator", "max_wait_s"}
# Nothing is said of a wait that is over so soon.
_QUIET_S = 5.0
_LOOK_EVERY_S = 5.0
_SAY_EVERY_S = 60.0


class GangSection(Section):
    """Which nodes train, and how long they are waited for."""

    accelerator: str | None = setting(
        None, "type of GPU that workers need, as Ray names it (H100, A100, L4); any, where not given"
    )
    max_wait_s: float = setting(
        3600.0, "how long all workers together are waited for before the job gives up", unit="s", ge=0
    )


def on_gpus(device: str, section: GangSection) -> bool:
    """Whether a training with the setting `device` (auto, cpu or cuda) takes GPUs on the connected cluster."""
    return device == "cuda" or (device == "auto" and (section.accelerator is not None or cluster.has_gpus()))


def wait(num_workers: int, section: GangSection, *, use_gpu: bool, say: Callable[[str], None] = print) -> None:
    """Return once the cluster has room for all workers at once.

    Says what is waited for, how much of it is here and since when. Raises CslmError after `section.max_wait_s`.
    """
    kind = "GPU" if use_gpu else "CPU"
    label = section.accelerator if use_gpu and section.accelerator else kind
    group = placement_group([_needs(section, use_gpu)] * num_workers, strategy="PACK")
    started_s = said_s = time.monotonic()
    told: int | None = None
    try:
        patience_s = min(_QUIET_S, section.max_wait_s)
        while not group.wait(patience_s):
            waited_s = time.monotonic() - started_s
            here = min(int(cluster.resources_here(kind, section.accelerator if use_gpu else None)), num_workers)
            if waited_s >= section.max_wait_s:
                raise CslmError(
                    f"training needs {num_workers} x {label} at once, found {here} of {num_workers} after "
                    f"{_span(waited_s)} (max_wait_s); is there quota and capacity for them, may the autoscaler start "
                    "so many, do other jobs hold them? The same command goes on from what is done"
                )
            if here != told or time.monotonic() - said_s >= _SAY_EVERY_S:
                held = ", held by other jobs" if here == num_workers else ""
                say(f"waiting for {num_workers} x {label}, {here} of {num_workers} here{held}, {_span(waited_s)}")
                told, said_s = here, time.monotonic()
            patience_s = max(0.1, min(_LOOK_EVERY_S, section.max_wait_s - waited_s))
        if told is not None:
            say(f"{num_workers} x {label} are here after {_span(time.monotonic() - started_s)}")
    finally:
        # Ray Train asks for the same again at once; an idle node stays for minutes.
        remove_placement_group(group)


def scaling(num_workers: Any, section: GangSection, *, use_gpu: bool, **more: Any) -> "ScalingConfig":
    """What Ray Train is to ask for: `num_workers`, a number or a range, of the kind that `wait` waits for."""
    from ray.train import ScalingConfig

    accelerator = section.accelerator if use_gpu else None
    return ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, accelerator_type=accelerator, **more)


def results_in(output: str) -> dict[str, Any]:
    """Where Ray Train keeps its own notes: in the output, by the same client that everything else is written with."""
    if not storage.is_uri(output):
        return {"storage_path": output}
    system, path = storage.filesystem(output)
    return {"storage_path": path, "storage_filesystem": system}


def _needs(section: GangSection, use_gpu: bool) -> dict[str, float]:
    """What Ray Train asks of a node for one worker."""
    if not use_gpu:
        return {"CPU": 1}
    return {"GPU": 1, **cluster.of_type(section.accelerator)}


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"

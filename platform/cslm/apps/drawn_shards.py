"""Shards in a drawn order with the languages in turns, worked on by tasks that run side by side."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from cslm.config import fingerprint

# Shards that are worked on at the same time beyond what there are CPUs for.
_WAITING = 4


def drawn(shards: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The languages in turns, the shards of each in an order that follows from their content and the seed."""
    by_language: dict[str, list[dict[str, Any]]] = {}
    for shard in sorted(shards, key=lambda shard: fingerprint([seed, shard["digest"]])):
        by_language.setdefault(shard["language"], []).append(shard)
    ordered = []
    while any(by_language.values()):
        ordered += [rest.pop() for _, rest in sorted(by_language.items()) if rest]
    return ordered


def in_order(
    shards: Sequence[dict[str, Any]], start: Callable[[dict[str, Any]], Any]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each shard with what its task gave, in order; `start` starts the task of a shard. Some run at the same time."""
    at_once = int(ray.cluster_resources().get("CPU", 1)) + _WAITING  # type: ignore[no-untyped-call]
    running: list[Any] = []
    rest = iter(shards)
    for shard in shards:
        while len(running) < at_once and (following := next(rest, None)) is not None:
            running.append(start(following))
        yield shard, ray.get(running.pop(0))

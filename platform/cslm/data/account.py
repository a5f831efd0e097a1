"""The account of an epoch: what the tables hold of each group, how often it is seen, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from cslm.data.mixture import GroupShare, GroupSize


def of_epoch(
    packed: Sequence[Mapping[str, Any]],
    aside: Sequence[Mapping[str, Mapping[str, int]]],
    held: Mapping[str, GroupSize],
    shares: Mapping[str, GroupShare],
    row_length: int,
) -> dict[str, Any]:
    """The statistics of a packed table.

    `packed` are rows and counts of every bucket, `aside` what was set aside of every chunk, {group: {reason: rows}}.
    """
    set_aside: dict[str, dict[str, int]] = {}
    for chunk in aside:
        for group, reasons in chunk.items():
            total = set_aside.setdefault(group, {})
            for reason, number in reasons.items():
                total[reason] = total.get(reason, 0) + number
    tasks: dict[str, dict[str, Any]] = {
        group: {
            "held": held[group].examples,
            "size": round(held[group].size, 4),
            "repeats": round(share.repeats, 4),
            "bounded_from": round(share.wanted, 4) if share.bounded else None,
            **{"examples": 0, "tokens": 0, "targets": 0},
        }
        for group, share in shares.items()
    }
    for bucket in packed:
        for group, counts in bucket["groups"].items():
            for name, number in counts.items():
                tasks[group][name] += number
    num_rows = sum(bucket["rows"] for bucket in packed)
    num_tokens = sum(task["tokens"] for task in tasks.values())
    for task in tasks.values():
        task["share"] = round(task["tokens"] / num_tokens, 6) if num_tokens else 0.0
    return {
        "num_rows": num_rows,
        "row_length": row_length,
        "num_tokens": num_tokens,
        "efficiency": num_tokens / (num_rows * row_length) if num_rows else 1.0,
        "set_aside": dict(sorted(set_aside.items())),
        "tasks": tasks,
    }


def told(aside: Mapping[str, Mapping[str, int]]) -> str:
    """What was set aside, in words."""
    parts = [f"{n:,} {reason} of {group}" for group, reasons in aside.items() for reason, n in reasons.items()]
    return ", ".join(parts) or "nothing"

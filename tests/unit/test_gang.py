"""What is waited for, told, and given up; Ray's side is a stand-in here and real in the tests of clusters that grow."""

from typing import Any

import pytest

from cslm import cluster, gang
from cslm.errors import CslmError
from cslm.gang import GangSection


class Clock:
    """Time passes where a group is waited for, and nowhere else."""

    def __init__(self, arrivals: dict[float, int], group_at_s: float | None) -> None:
        self.now_s, self.arrivals, self.group_at_s = 0.0, arrivals, group_at_s
        self.bundles: list[dict[str, float]] = []
        self.removed = 0

    def placement_group(self, bundles: list[dict[str, float]], strategy: str) -> "Clock":
        self.bundles = bundles
        return self

    def wait(self, patience_s: float) -> bool:
        self.now_s += patience_s
        return self.group_at_s is not None and self.now_s >= self.group_at_s

    def remove(self, group: "Clock") -> None:
        self.removed += 1

    def nodes(self) -> list[dict[str, Any]]:
        other = {"Alive": True, "Resources": {"GPU": 4.0, "accelerator_type:L4": 1.0}}
        gpus = sum(count for at_s, count in self.arrivals.items() if at_s <= self.now_s)
        return [other, {"Alive": True, "Resources": {"GPU": float(gpus), "accelerator_type:H100": 1.0}}]


def waited(monkeypatch: pytest.MonkeyPatch, clock: Clock, section: GangSection, **given: Any) -> list[str]:
    monkeypatch.setattr(gang, "placement_group", clock.placement_group)
    monkeypatch.setattr(gang, "remove_placement_group", clock.remove)
    monkeypatch.setattr(gang.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(cluster.ray, "nodes", clock.nodes)
    said: list[str] = []
    gang.wait(8, section, say=said.append, **{"use_gpu": True, **given})
    return said


def test_a_group_that_is_there_is_taken_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({0: 8}, group_at_s=0)
    assert waited(monkeypatch, clock, GangSection(accelerator="H100")) == []
    assert clock.bundles == [{"GPU": 1, "accelerator_type:H100": 0.001}] * 8
    assert clock.removed == 1


def test_what_is_waited_for_is_told_each_minute_and_when_some_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({100: 4, 190: 4}, group_at_s=200)
    said = waited(monkeypatch, clock, GangSection(accelerator="H100"))
    assert said[0] == "waiting for 8 x H100, 0 of 8 here, 5 s"
    assert "waiting for 8 x H100, 0 of 8 here, 1 min" in said
    assert "waiting for 8 x H100, 4 of 8 here, 2 min" in said
    assert "waiting for 8 x H100, 8 of 8 here, held by other jobs, 3 min" in said
    assert said[-1] == "8 x H100 are here after 3 min"
    assert len(said) == 6


def test_a_wait_that_is_too_long_ends_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({60: 4}, group_at_s=None)
    with pytest.raises(CslmError, match=r"needs 8 x H100 at once, found 4 of 8 after 10 min \(max_wait_s\)"):
        waited(monkeypatch, clock, GangSection(accelerator="H100", max_wait_s=600))
    assert clock.now_s == pytest.approx(600, abs=0.2)
    assert clock.removed == 1


def test_any_gpu_will_do_where_none_is_named_and_cpus_have_no_type(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({0: 8}, group_at_s=0)
    waited(monkeypatch, clock, GangSection())
    assert clock.bundles == [{"GPU": 1}] * 8
    waited(monkeypatch, clock, GangSection(accelerator="H100"), use_gpu=False)
    assert clock.bundles == [{"CPU": 1}] * 8


def test_a_named_accelerator_means_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [])
    monkeypatch.delenv("CSLM_AUTOSCALED_GPUS", raising=False)
    assert gang.on_gpus("auto", GangSection(accelerator="H100"))
    assert not gang.on_gpus("cpu", GangSection(accelerator="H100"))
    assert not gang.on_gpus("auto", GangSection())
    assert gang.on_gpus("cuda", GangSection())

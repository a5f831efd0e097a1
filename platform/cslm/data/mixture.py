"""How often each group of examples is seen in one epoch: from the sizes of the groups and the mixture's settings.

A group is a task with its language or direction (`asr/en`, `mt/en-zh`). Within a task, `beta` moves the shares of the
groups from their natural ones towards equal ones without changing what the task has in all, and no group is repeated
more often than `max_repeats`: a small group seen ten times in an epoch is learned by heart. Pure arithmetic.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cslm.config import Section, group, setting
from cslm.errors import ConfigError


class TaskWeights(Section):
    """How often each example of a task is seen in one epoch; 0.5 takes a fixed half, 2 takes each twice."""

    asr: float = setting(1.0, "speech -> its transcript", ge=0)
    tts: float = setting(1.0, "transcript -> speech", ge=0)
    spans: float = setting(0.0, "text and speech of an utterance in turns; needs data.alignments", ge=0)
    mt: float = setting(1.0, "text -> its translation", ge=0)
    st: float = setting(0.0, "speech -> text of its translation", ge=0)
    s2st: float = setting(0.0, "speech -> speech of its translation", ge=0)
    text: float = setting(1.0, "text question -> text answer", ge=0)
    answer: float = setting(1.0, "spoken question -> text question, text answer, spoken answer", ge=0)


class ReplaySection(Section):
    """How much of what a model knows already is trained again beside what is new."""

    languages: tuple[str, ...] = setting(
        (), "languages that are known: groups that speak no other are replayed, all others are new"
    )
    share: float | None = setting(
        None,
        "what the replayed groups of a task have of its volume, the rest being new; without it they have what the "
        "mixture gives them anyway, and 0 leaves them out",
        ge=0,
        lt=1,
    )
    beta: float = setting(
        0.5, "share of a replayed group among them goes by size^beta: 1 as the data lies, 0 all alike", ge=0, le=1
    )


class MixtureSection(Section):
    """How the groups of a task share what its weight gives it."""

    groups: dict[str, float] = setting(
        {},
        "factor for a group (asr/en, mt/en-zh) or for a language or direction in every task (en, en-zh); all multiply",
    )
    beta: float = setting(
        1.0,
        "share of a group within its task goes by size^beta: 1 as the data lies, 0 all alike; size is hours of speech "
        "for tasks on utterances and characters for tasks on texts",
        ge=0,
        le=1,
    )
    max_repeats: float = setting(
        4.0, "an example is seen at most so often in one epoch; what a group loses goes to the others of its task", gt=0
    )
    replay: ReplaySection = group(ReplaySection, "what is known already, beside what is new")


@dataclass(frozen=True)
class GroupSize:
    """What the tables hold of a group: examples, and their hours or characters."""

    examples: int
    size: float


@dataclass(frozen=True)
class GroupShare:
    """What the mixture gives a group: `repeats` of each example in an epoch, and what it had been without the bound."""

    repeats: float
    wanted: float

    @property
    def bounded(self) -> bool:
        """Whether `max_repeats` took something from the group."""
        return self.repeats < self.wanted


def task_of(group: str) -> str:
    """`asr` of `asr/en`."""
    return group.partition("/")[0]


def shares(
    sizes: Mapping[str, GroupSize], weights: Mapping[str, float], section: MixtureSection
) -> dict[str, GroupShare]:
    """The share of every group whose task has a weight above zero; groups without size or with factor 0 get none.

    A task keeps its volume, sum of size x weight x factor, through temperature, and through the bound as far as its
    groups have room below it. With `replay.share` it keeps the volume of its new groups, and what is replayed is
    measured by that. Raises ConfigError for factors of groups that the tables do not have.
    """
    check_names(section.groups, sizes)
    members_of = {
        task: {name: one.size for name, one in sorted(sizes.items()) if task_of(name) == task and one.size > 0}
        for task in weights
    }
    wanted_of = {
        task: {
            name: weights[task] * temper * factor_of(name, section.groups)
            for name, temper in _tempered(members, section.beta).items()
        }
        for task, members in members_of.items()
    }
    if section.replay.share is not None:
        wanted_of = _replayed(wanted_of, members_of, section.replay, section.replay.share)
    found: dict[str, GroupShare] = {}
    for task, members in members_of.items():
        wanted = {name: repeats for name, repeats in wanted_of[task].items() if repeats > 0}
        bounded = _bounded(wanted, members, section.max_repeats)
        found |= {name: GroupShare(bounded[name], wanted[name]) for name in wanted}
    return dict(sorted(found.items()))


def is_known(group: str, languages: Iterable[str]) -> bool:
    """Whether a group speaks none but these languages: `asr/en`, `answer/en-zh`."""
    known, spoken = set(languages), group.partition("/")[2]
    return spoken in known or any(f"{one}-{other}" == spoken for one in known for other in known)


def _replayed(
    wanted_of: Mapping[str, Mapping[str, float]],
    sizes_of: Mapping[str, Mapping[str, float]],
    section: ReplaySection,
    share: float,
) -> dict[str, dict[str, float]]:
    """Repeats in which known groups have `share` of each task.

    A task that brings nothing new (text of old languages) gives its known groups what those of the other tasks keep of
    theirs on average: the one has no measure of its own.
    """
    kept: list[tuple[float, float]] = []
    volumes: dict[str, float | None] = {}
    for task, wanted in wanted_of.items():
        known = [name for name in sorted(wanted) if is_known(name, section.languages)]
        old = sum(wanted[name] * sizes_of[task][name] for name in known)
        new = sum(repeats * sizes_of[task][name] for name, repeats in wanted.items() if name not in known)
        volumes[task] = new * share / (1 - share) if new > 0 else None
        if new > 0 and old > 0:
            kept.append((new * share / (1 - share), old))
    # Sizes of tasks are hours or characters: only ratios can be averaged.
    ratio = min(1.0, sum(part / whole for part, whole in kept) / len(kept)) if kept else float(share > 0)
    found: dict[str, dict[str, float]] = {}
    for task, wanted in wanted_of.items():
        known = [name for name in sorted(wanted) if wanted[name] > 0 and is_known(name, section.languages)]
        natural = {name: wanted[name] * sizes_of[task][name] for name in known}
        given = volumes[task]
        volume = ratio * sum(natural.values()) if given is None else given
        powers = {name: size**section.beta for name, size in natural.items()}
        scale = volume / sum(powers.values()) if powers else 0.0
        found[task] = {
            name: powers[name] * scale / sizes_of[task][name] if name in powers else repeats
            for name, repeats in wanted.items()
        }
    return found


def factor_of(group: str, factors: Mapping[str, float]) -> float:
    """The product of the factors that name a group: by its whole name, or by its language or direction."""
    return factors.get(group, 1.0) * factors.get(group.partition("/")[2], 1.0)


def check_names(factors: Mapping[str, float], groups: Iterable[str]) -> None:
    """Raise ConfigError for factors below zero and for names that are no group, language or direction of the tables."""
    whole = sorted(groups)
    known = [*whole, *sorted({name.partition("/")[2] for name in whole})]
    faults = [
        f"data.mixture.groups.{name}: must be a group of the tables, found none; they have {', '.join(known) or 'none'}"
        for name in factors
        if name not in known
    ]
    faults += [f"data.mixture.groups.{name}: must be at least 0, found {f}" for name, f in factors.items() if f < 0]
    if faults:
        raise ConfigError(faults)


def _tempered(sizes: Mapping[str, float], beta: float) -> dict[str, float]:
    """Repeats that give each group a share in proportion to size^beta of what all of them have, each once."""
    total = sum(sizes.values())
    powers = {name: size**beta for name, size in sizes.items()}
    scale = sum(powers.values())
    return (
        {name: total * powers[name] / scale / size for name, size in sizes.items()}
        if beta != 1
        else dict.fromkeys(sizes, 1.0)
    )


def _bounded(wanted: Mapping[str, float], sizes: Mapping[str, float], bound: float) -> dict[str, float]:
    """Water-filling: repeats min(bound, level x wanted), with the one level that keeps the volume as it was."""
    volume = sum(wanted[name] * sizes[name] for name in wanted)
    full: set[str] = set()
    level = 1.0
    while True:
        free = [name for name in wanted if name not in full]
        over = [name for name in free if wanted[name] * level > bound]
        if not over:
            return {name: bound if name in full else wanted[name] * level for name in wanted}
        full |= set(over)
        rest = sum(wanted[name] * sizes[name] for name in wanted if name not in full)
        if rest > 0:
            # In one order in every process, as the last digit of a sum depends on it, and rows on that.
            level = (volume - bound * sum(sizes[name] for name in wanted if name in full)) / rest


@dataclass(frozen=True)
class Draw:
    """Which examples an epoch takes, and how often: decided by the example's own name, so the same in every run."""

    repeats: Mapping[str, float]
    seed: int

    def copies(self, group: str, source: str) -> int:
        """The whole part of the group's repeats, and one more for the share of its rows that the fraction names."""
        repeats = self.repeats.get(group, 0.0)
        chance = zlib.crc32(f"keep/{self.seed}/{task_of(group)}/{source}".encode()) / 2**32
        return int(repeats) + int(chance < repeats % 1)

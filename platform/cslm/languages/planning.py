"""What is due: pure rules over cards, the data that lies at their sources, what was tried, and the champion.

A language is due when its card is new, when its data has grown past a threshold, or when it was refused and its card or
data is another one since. Data that was refused is never tried twice. A new speech tokenizer or training recipe makes
all languages due together, from the base model: units of two tokenizers never mix, and a recipe says how a model is
made from its beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cslm.config import Section, fingerprint, setting
from cslm.languages.card import Card
from cslm.languages.drops import Drop
from cslm.languages.state import TOGETHER, Attempt, Champion

_SETTLED = ("refused", "no-go", "promoted")


class DueSection(Section):
    """When a language is trained again."""

    growth: float = setting(
        0.2, "data must have grown by this share since the champion learned it; 0.2 is a fifth more", gt=0
    )


@dataclass(frozen=True)
class Made:
    """Fingerprints of what is in force: they decide what a run would be, and whether it would be another one."""

    tokenizer: str
    recipe: str
    # Of how data becomes tables, of how the champion is continued (replay ...), of what judges (gate, evaluation ...).
    tables: str
    continuing: str
    judging: str


@dataclass(frozen=True)
class Planned:
    """One run to be made: languages that are trained, known ones that are replayed, and what it starts from."""

    name: str
    reason: str
    languages: tuple[str, ...]
    replayed: tuple[str, ...]
    # From the champion; else from the recipe's base model.
    continues: bool
    # The name of the run's folder: the same for what is taught alike, starting from the same champion.
    run: str
    # Stands for all that decides how it ends, but for the champion.
    key: str


def plan(
    cards: Mapping[str, Card],
    drops: Mapping[str, Drop],
    tried: Mapping[str, Attempt],
    champion: Champion | None,
    made: Made,
    section: DueSection,
) -> tuple[list[Planned], dict[str, str]]:
    """The runs that are due, in order, and of every language that is not due why it is not.

    `drops` lacks languages whose data cannot be looked at: they are not planned.
    """
    present = tuple(code for code in cards if code in drops)
    reason = _together(champion, made)
    if reason is not None and present:
        one = _planned(TOGETHER, present, (), cards, drops, champion, made)
        last = tried.get(TOGETHER)
        settled = _is_settled(last, one.key) and not (champion is None and last and last.ending == "promoted")
        if not settled:
            return [replace(one, reason=_again(reason, last, one))], {}
        assert last is not None
        told = f"{reason}, but these very cards and data were {last.ending} with it ({last.run})"
        if champion is None or champion.tokenizer != made.tokenizer:
            return [], dict.fromkeys(present, told)
    found: list[Planned] = []
    waiting: dict[str, str] = {}
    if champion is None:
        return found, waiting
    for code in present:
        known, last = champion.languages.get(code), tried.get(code)
        if known is None:
            reason = "its card is new"
        elif drops[code].num_bytes >= (1 + section.growth) * known.num_bytes:
            reason = f"its data grew by {drops[code].num_bytes / max(known.num_bytes, 1) - 1:.0%}"
        else:
            waiting[code] = "the champion has it, and its data has not grown enough"
            continue
        others = tuple(one for one in champion.languages if one != code)
        one = _planned(code, (code,), others, cards, drops, champion, made)
        if _is_settled(last, one.key):
            assert last is not None
            ended = "promoted and taken back" if last.ending == "promoted" else last.ending
            waiting[code] = f"this very card and data were {ended} ({last.run}); change the card or the data"
            continue
        found.append(replace(one, reason=_again(reason, last, one)))
    return found, waiting


def _planned(
    name: str,
    languages: tuple[str, ...],
    replayed: tuple[str, ...],
    cards: Mapping[str, Card],
    drops: Mapping[str, Drop],
    champion: Champion | None,
    made: Made,
) -> Planned:
    taught = {code: [cards[code].taught, drops[code].digest] for code in languages}
    asked = {code: cards[code].fingerprint for code in languages}
    continues = name != TOGETHER and champion is not None
    start = [champion.run, made.continuing] if continues and champion is not None else None
    of_training = fingerprint([made.tokenizer, made.recipe, made.tables, taught])
    run = f"{'all' if name == TOGETHER else name}-{fingerprint([of_training, start])[:8]}"
    key = fingerprint([of_training, made.continuing if continues else None, asked, made.judging])
    return Planned(name, "", languages, replayed, continues, run, key)


def _together(champion: Champion | None, made: Made) -> str | None:
    """Why all languages are due together, None when they are not."""
    if champion is None:
        return "there is no champion yet"
    if champion.tokenizer != made.tokenizer:
        return f"the speech tokenizer is another one ({champion.tokenizer} -> {made.tokenizer})"
    if champion.recipe != made.recipe:
        return f"the recipe is another one ({champion.recipe} -> {made.recipe})"
    return None


def _is_settled(last: Attempt | None, key: str) -> bool:
    return last is not None and last.key == key and last.ending in _SETTLED


def _again(reason: str, last: Attempt | None, now: Planned) -> str:
    if last is None:
        return reason
    if last.run == now.run:
        return f"{reason}; the run {last.run} goes on ({last.ending})"
    return f"{reason}; the last try ({last.run}) was {last.ending}, with another card, data or champion"

"""Records -> rows of the tables, or the reason why one is not taken."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cslm.data.manifest import SPLITS
from cslm.data.text_normal import normalise
from cslm.data.texts import tags
from cslm.data.texts.records import Dialogue, Fault, Pair, Record, Row, Turn, is_blank
from cslm.data.texts.settings import FiltersSection, LanguagesSection, SplitsSection

# Behind the ids of pairs that are written a second time, the other way round.
REVERSED = "#reversed"
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}
_NO_LETTER = re.compile(r"[\W\d_]+")


@dataclass(slots=True)
class Clean:
    """A row of its table, the text that is the same in rows that say the same, and what was mended in it.

    `changes` names a change (see `text_normal`) once for each text that it was made in.
    """

    row: Row
    key: str
    changes: list[str]
    dropped_turns: int = 0
    joined_systems: int = 0


class _RejectedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        super().__init__(reason, message)


class Cleaner:
    """Decides row by row, each on its own."""

    def __init__(self, name: str, languages: LanguagesSection, splits: SplitsSection, filters: FiltersSection) -> None:
        self._name, self._languages, self._splits, self._filters = name, languages, splits, filters
        self._changes: list[str] = []

    def clean(self, number: int, record: Record) -> Clean | Fault:
        """The row of a record, or why there is none; `number` counts the rows of the corpus from 1."""
        if isinstance(record, Fault):
            return record
        self._changes = []
        try:
            return self._pair(number, record) if isinstance(record, Pair) else self._dialogue(number, record)
        except _RejectedError as rejected:
            return Fault(rejected.reason, rejected.message, record.id)

    def _pair(self, number: int, pair: Pair) -> Clean:
        row: Row = {
            "id": self._id(number, pair.id),
            "source_language": self._language(pair.source_language, self._languages.source, "source"),
            "target_language": self._language(pair.target_language, self._languages.target, "target"),
            "source": self._text("source", [pair.source]),
            "target": self._text("target", [pair.target]),
        }
        for side, given in (("source_audio", pair.source_audio), ("target_audio", pair.target_audio)):
            if not is_blank(given):
                row[side] = _utterance(given, side)
        source, target = row["source"], row["target"]
        if self._filters.drop_identical and source == target:
            raise _RejectedError("identical", "source and target must differ, found the same text in both")
        shorter, longer = sorted((len(source), len(target)))
        if longer > self._filters.max_length_ratio * shorter:
            raise _RejectedError(
                "length_ratio",
                f"one text may be at most {self._filters.max_length_ratio:g} times as long as the other, found "
                f"{len(source)} and {len(target)} characters",
            )
        self._check_letters("source", source)
        self._check_letters("target", target)
        row["split"] = self._split(pair.split, source)
        sides = [f"{row['source_language']}\0{source}", f"{row['target_language']}\0{target}"]
        # Written both ways round, a pair and its reverse are the same.
        return Clean(row, "\0".join(sorted(sides) if self._languages.both_directions else sides), self._changes)

    def _dialogue(self, number: int, dialogue: Dialogue) -> Clean:
        name = self._id(number, dialogue.id)
        turns, dropped, joined = _exchange(dialogue.turns)
        given = turns[0].language if is_blank(dialogue.language) else dialogue.language
        asked = self._language(given, self._languages.source, "source")
        answered = asked if dialogue.language is not None else self._languages.target or asked
        row: Row = {"id": name, "kind": None if is_blank(dialogue.kind) else str(dialogue.kind)}
        row["turns"] = [
            {
                "role": turn.role,
                "language": self._language(
                    turn.language, asked if turn.role == "user" else answered, f"turn {place}'s"
                ),
                "text": self._text(f"turn {place}", turn.parts),
            }
            | ({} if is_blank(turn.audio) else {"audio": _utterance(turn.audio, f"audio of turn {place}")})
            for place, turn in enumerate(turns, 1)
        ]
        texts = [turn["text"] for turn in row["turns"]]
        self._check_letters("the dialogue", " ".join(texts))
        row["split"] = self._split(dialogue.split, texts[0])
        spoken = [turn.get("audio", "") for turn in row["turns"]]
        # The same exchange spoken by others is another one.
        told = "\0".join([asked, answered, *texts, *(spoken if any(spoken) else ())])
        return Clean(row, told, self._changes, dropped, joined)

    def _id(self, number: int, given: Any) -> str:
        if is_blank(given):
            return f"{self._name}-{number}"
        name = self._normal(str(given), keep_layout=False)
        if not name or name.endswith(REVERSED):
            raise _RejectedError(
                "bad_id", f"an id must be a name that does not end with {REVERSED}, found {given!r:.80}"
            )
        return name

    def _language(self, given: Any, default: str | None, side: str) -> str:
        language = default if is_blank(given) else str(given)
        if language is None:
            raise _RejectedError("no_language", f"the row must name its {side} language, or languages.{side} must")
        if not tags.is_tag(language):
            raise _RejectedError(
                "bad_language", f"a language must be a BCP-47 tag such as en or zh-CN, found {language!r:.40}"
            )
        return language

    def _split(self, given: Any, asked: str) -> str:
        if not is_blank(given):
            if given not in SPLITS:
                raise _RejectedError("bad_split", f"split must be one of {', '.join(SPLITS)}, found {given!r:.40}")
            return str(given)
        test, dev = self._splits.test_fraction, self._splits.dev_fraction
        if not test and not dev:
            return "train"
        digest = hashlib.blake2b(f"{self._splits.seed}/{asked.casefold()}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        return "test" if place < test else "dev" if place < test + dev else "train"

    def _text(self, where: str, parts: Sequence[Any]) -> str:
        """The parts in their normal form, one behind the other, checked for length."""
        texts = [self._normal(_plain(part, where)) for part in parts]
        text = ("\n\n" if self._filters.keep_layout else " ").join(filter(None, texts))
        if not text:
            raise _RejectedError("empty", f"{where} must hold text, found none")
        if not self._filters.min_chars <= len(text) <= self._filters.max_chars:
            reason = "too_short" if len(text) < self._filters.min_chars else "too_long"
            limits = f"{self._filters.min_chars} to {self._filters.max_chars}"
            raise _RejectedError(reason, f"{where} must have {limits} characters, found {len(text)}")
        return text

    def _normal(self, text: str, keep_layout: bool | None = None) -> str:
        keep = self._filters.keep_layout if keep_layout is None else keep_layout
        text, changes = normalise(text, keep_layout=keep)
        self._changes += changes
        return text

    def _check_letters(self, where: str, text: str) -> None:
        wanted = self._filters.min_letter_share
        num_chars = len(text) - sum(map(text.count, " \n\t"))
        # Marks belong to letters in many scripts, but only a slow look at each character tells them.
        if len(_NO_LETTER.sub("", text)) >= wanted * num_chars:
            return
        share = sum(unicodedata.category(char)[0] in "LM" for char in text) / num_chars
        if share < wanted:
            raise _RejectedError(
                "not_text", f"{wanted:.0%} of {where} must be letters, found {share:.0%}: {text!r:.60}"
            )


def _exchange(turns: Sequence[Turn]) -> tuple[list[Turn], int, int]:
    """The turns of user and assistant by the contract, how many at the end were dropped, and how many joined.

    The table knows users and assistants only: what a system says at the beginning goes in front of the first question.
    """
    named = []
    for turn in turns:
        role = _ROLES.get(str(turn.role).lower())
        if role is None:
            raise _RejectedError("bad_role", f"a turn must be of user, assistant or system, found {turn.role!r:.40}")
        named.append(Turn(role, turn.parts, turn.audio, turn.language))
    systems = 0
    while systems < len(named) and named[systems].role == "system":
        systems += 1
    spoken = named[systems:]
    if any(turn.role == "system" for turn in spoken):
        raise _RejectedError("bad_role", "a system must speak at the beginning, found a turn of it further down")
    num_turns = len(spoken)
    while spoken and spoken[-1].role == "user":
        spoken.pop()
    if not spoken:
        raise _RejectedError("empty", "a dialogue must have a turn of the assistant, found none")
    for place, turn in enumerate(spoken):
        if turn.role != ("user", "assistant")[place % 2]:
            raise _RejectedError(
                "not_alternating",
                "user and assistant must take turns, the user first, found " + " ".join(one.role for one in spoken[:8]),
            )
    before = [part for turn in named[:systems] for part in turn.parts]
    # What a system says is text: a question that it stands in front of is no longer what was spoken.
    first = spoken[0]
    joined = any(not is_blank(part) for part in before)
    spoken[0] = Turn("user", [*before, *first.parts], None if joined else first.audio, first.language)
    return spoken, num_turns - len(spoken), int(joined)


def _utterance(given: Any, where: str) -> str:
    """The id of an utterance."""
    if not isinstance(given, str | int) or isinstance(given, bool):
        raise _RejectedError("bad_audio", f"{where} must be the id of an utterance, found {given!r:.60}")
    return str(given)


def _plain(value: Any, where: str) -> str:
    if is_blank(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _RejectedError("bad_content", f"{where} must be text, found {type(value).__name__}")


def reverse(row: Row) -> Row:
    """A pair in the other direction."""
    exchanged = {
        "id": row["id"] + REVERSED,
        "source_language": row["target_language"],
        "target_language": row["source_language"],
        "source": row["target"],
        "target": row["source"],
    }
    spoken = {"source_audio": row.get("target_audio"), "target_audio": row.get("source_audio")}
    kept = {name: value for name, value in row.items() if name not in spoken}
    return kept | exchanged | {name: value for name, value in spoken.items() if value is not None}

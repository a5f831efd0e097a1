"""Which utterances, translations and dialogues a demo corpus of given settings has: pure arithmetic on the settings.

Any part of a corpus can be worked out alone, from its number, on any machine: nothing here depends on what was made
before. Three kinds of utterances follow each other: answers (each by the voice that answers, then in further takes by
others), questions, statements.

The splits are those of `cslm.demo.splits`. Every fact is asked first in a question of the train split, so that a
held-out question is new in words and its answer is not. Answers all belong to the train split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
from pydantic import ValidationInfo, field_validator

from cslm.config import Section, fingerprint, setting
from cslm.demo.facts import Fact, all_facts, fact_kinds
from cslm.demo.grammar import (
    STATEMENTS,
    Language,
    Meaning,
    available_languages,
    largest_choices,
    load_language,
    meaning,
    num_meanings,
)
from cslm.demo.speakers import ANSWERER, pools
from cslm.demo.splits import SPLITS, draw, meanings_of, question_splits
from cslm.demo.voices import Speaker

NUM_ANSWER_WORDINGS = 3
# Rounds in which every fact is asked once; fewer facts are taken when a corpus is too small for so many.
_MIN_ROUNDS = 8
# As spoken on average, from which the numbers of statements and questions follow.
_SECONDS_A_LETTER, _QUESTION_S, _ANSWER_S = 0.06, 2.23, 1.38


class CorpusSection(Section):
    """What the demo corpus consists of."""

    num_utterances: int = setting(8000, "spoken utterances in all", ge=100)
    languages: tuple[str, ...] = setting(
        ("en", "zh", "es"), "languages to take, of those the grammar has", min_length=1
    )
    seed: int = setting(1, "another seed gives another corpus", ge=0)
    dialogue_share: float = setting(0.55, "share of the spoken time that is questions and answers", gt=0.1, lt=0.9)
    text_dialogue_share: float = setting(0.25, "dialogues of text only, for each spoken question", ge=0.0, le=1.0)
    answer_takes: int = setting(
        1, "how often each answer is said: once by the voice that answers, then by voices of train", ge=1
    )
    answerer_share: float = setting(
        0.0,
        "share of the statements of train that the voice that answers says, to be learned from more",
        ge=0.0,
        lt=1.0,
    )
    concepts: int | None = setting(
        None,
        "how many concepts of each kind statements speak of (people, animals, places ...); all when not given",
        ge=2,
    )
    statement_kinds: tuple[str, ...] | None = setting(
        None, f"kinds of statements, of {', '.join(STATEMENTS)}; all when not given", min_length=1
    )
    fact_kinds: tuple[str, ...] | None = setting(
        None, f"kinds of facts asked about, of {', '.join(fact_kinds())}; all when not given", min_length=1
    )
    shard_size: int = setting(250, "utterances made by one task and lost when it is interrupted", ge=10)

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in languages if code not in available_languages()]
        if unknown:
            raise ValueError(f"must be among {', '.join(available_languages())}, found {', '.join(unknown)}")
        if len(set(languages)) != len(languages):
            raise ValueError(f"must name each language once, found {', '.join(languages)}")
        return languages

    @field_validator("statement_kinds", "fact_kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        known = tuple(STATEMENTS) if info.field_name == "statement_kinds" else fact_kinds()
        unknown = [kind for kind in kinds or () if kind not in known]
        if unknown:
            raise ValueError(f"must be among {', '.join(known)}, found {', '.join(unknown)}")
        # In the grammar's order, so that the same choice is the same corpus.
        return tuple(kind for kind in known if kind in kinds) if kinds else None


@dataclass(frozen=True)
class Utterance:
    """One thing to be said."""

    id: str
    part: str
    language: str
    text: str
    speaker: Speaker
    split: str


@dataclass(frozen=True)
class Question:
    """A fact asked in one wording of one language."""

    id: str
    fact: Fact
    wording: int
    language: str
    split: str
    # Whether an earlier question of the corpus already is this one, asked by another speaker.
    is_repeat: bool


@dataclass(frozen=True)
class _Answer:
    fact: Fact
    wording: int
    language: str
    text: str


class Plan:
    """A corpus as its settings define it."""

    def __init__(self, section: CorpusSection) -> None:
        self.section = section
        self.languages: Mapping[str, Language] = {code: load_language(code) for code in section.languages}
        self._codes = section.languages
        # About two in five utterances are questions, enough for `_MIN_ROUNDS`; answers at most three in five.
        asked = section.num_utterances * 2 // (5 * _MIN_ROUNDS)
        said = NUM_ANSWER_WORDINGS * len(section.languages) * section.answer_takes
        answered = section.num_utterances * 3 // (5 * said)
        self._all_facts = [
            fact for fact in all_facts() if section.fact_kinds is None or fact.kind in section.fact_kinds
        ]
        self.num_facts = min(len(self._all_facts), max(1, min(asked, answered)))
        self.num_answers = len(self._answers)
        self.num_answers_said = self.num_answers * section.answer_takes
        rest = section.num_utterances - self.num_answers_said
        # The two shares of time, solved for the number of statements.
        talk = section.dialogue_share
        told_s = (1 - talk) * (rest * _QUESTION_S + self.num_answers_said * _ANSWER_S)
        wanted = round(told_s / (talk * self._statement_s + (1 - talk) * _QUESTION_S))
        # Three rounds of questions, whatever time they take: the first is of train, and held-out ones follow.
        self.num_statements = min(wanted, rest - 3 * self.num_facts)
        self.num_questions = rest - self.num_statements
        self.num_utterances = section.num_utterances
        self.num_shards = -(-self.num_utterances // section.shard_size)

    @cached_property
    def statement_kinds(self) -> tuple[str, ...]:
        """The kinds of statements that the corpus has."""
        return self.section.statement_kinds or tuple(STATEMENTS)

    @cached_property
    def _statement_s(self) -> float:
        """Mean length of a statement, by the letters of its English wording."""
        english, letters = load_language("en"), []
        for kind in self.statement_kinds:
            size = num_meanings(kind)
            said = [english.state(meaning(kind, index)) for index in range(0, size, max(1, size // 50))]
            letters.append(sum(map(len, said)) / len(said))
        return _SECONDS_A_LETTER * sum(letters) / len(letters)

    @cached_property
    def fingerprint(self) -> str:
        """Stands for the settings and for all that the grammar makes of them, wording included."""
        languages = []
        for language in self.languages.values():
            exchanges = [language.exchange(fact.kind, fact.slots).__dict__ for fact in all_facts()]
            # A statement in a hundred shows a change of any word; 97 shares no factor with the inventories' sizes.
            said = [language.state(meaning(k, i)) for k in STATEMENTS for i in range(0, num_meanings(k), 97)]
            languages.append([exchanges, said, language.voice, language.rate, language.respelling])
        speakers = [[speaker.name for speaker in pool] for pool in pools().values()]
        return fingerprint([self.section.model_dump(mode="json"), languages, speakers, ANSWERER.name])

    def shard(self, index: int) -> range:
        """The numbers of the utterances of a shard."""
        start = index * self.section.shard_size
        return range(start, min(start + self.section.shard_size, self.num_utterances))

    def utterance(self, number: int) -> Utterance:
        """The utterance of a number, 0 <= number < num_utterances."""
        if number < self.num_answers_said:
            take, place = divmod(number, self.num_answers)
            answer = self._answers[place]
            name = _id(answer.language, "a", number)
            speaker = self._speaker(name, "train") if take else ANSWERER
            return Utterance(name, "answer", answer.language, answer.text, speaker, "train")
        number -= self.num_answers_said
        if number < self.num_questions:
            question = self.question(number)
            speaker = self._speaker(question.id, question.split)
            text = self.ask(question.fact, question.wording, question.language)
            return Utterance(question.id, "question", question.language, text, speaker, question.split)
        number -= self.num_questions
        said, split = self.statement(number)
        # When all meanings are used up they come again, in the next language.
        language = self._codes[(number + number // len(self._meanings)) % len(self._codes)]
        name = _id(language, "s", number)
        text = self.languages[language].state(said)
        share = self.section.answerer_share if split == "train" else 0.0
        by_answerer = draw(self.section.seed, "answerer", name).random() < share
        speaker = ANSWERER if by_answerer else self._speaker(name, split)
        return Utterance(name, "statement", language, text, speaker, split)

    def statement(self, number: int) -> tuple[Meaning, str]:
        """The meaning of a statement and its split, 0 <= number < num_statements."""
        kind, index, split = self._meanings[number % len(self._meanings)]
        return meaning(self.statement_kinds[kind], int(index)), SPLITS[split]

    def is_repeated_statement(self, number: int) -> bool:
        """Whether an earlier statement already has the meaning of this one."""
        return number >= len(self._meanings)

    def question(self, number: int) -> Question:
        """The question of a number, 0 <= number < num_questions."""
        turn, place = divmod(number, self.num_facts)
        fact = self._facts[place]
        forms = self._forms(fact)
        wording, language = forms[turn % len(forms)]
        split = question_splits(fact, language)[wording]
        return Question(_id(language, "q", number), fact, wording, language, split, turn >= len(forms))

    def ask(self, fact: Fact, wording: int, language: str) -> str:
        """The words of a question."""
        return self.languages[language].exchange(fact.kind, fact.slots).questions[wording]

    def answers(self, fact: Fact, language: str) -> tuple[str, ...]:
        """Every right answer to a fact in a language."""
        return self.languages[language].exchange(fact.kind, fact.slots).answers

    def answer_id(self, language: str, text: str) -> str:
        """The id of the utterance that speaks an answer in the voice that answers."""
        return _id(language, "a", self._answer_numbers[language, text])

    def answer_source(self, number: int) -> tuple[Fact, int, str]:
        """Fact, wording and language of the answer of a number, 0 <= number < num_answers."""
        answer = self._answers[number]
        return answer.fact, answer.wording, answer.language

    def choose_answer(self, key: str, fact: Fact, language: str) -> str:
        """One of the right answers, the same one for the same key."""
        return draw(self.section.seed, "answer", key).choice(self.answers(fact, language))

    @cached_property
    def _facts(self) -> Sequence[Fact]:
        """The facts asked about, every kind spread evenly over the order so that small corpora have all kinds."""
        places = []
        for kind in self.section.fact_kinds or fact_kinds():
            facts = [fact for fact in self._all_facts if fact.kind == kind]
            draw(self.section.seed, "facts", kind).shuffle(facts)
            places += [((i + 0.5) / len(facts), fact) for i, fact in enumerate(facts)]
        facts = [fact for _, fact in sorted(places, key=lambda place: place[0])]
        # The first two facts have held-out questions, so that the smallest corpus has some of each split.
        for split in ("dev", "test"):
            first = next((fact for fact in facts if split in self._splits(fact).values()), facts[0])
            facts = [first, *(fact for fact in facts if fact != first)]
        return facts[: self.num_facts]

    @cached_property
    def _answers(self) -> Sequence[_Answer]:
        """Every distinct answer: `Six.` answers many questions and is said once."""
        found: dict[tuple[str, str], _Answer] = {}
        for fact in self._facts:
            for code in self._codes:
                for wording, text in enumerate(self.answers(fact, code)):
                    found.setdefault((code, text), _Answer(fact, wording, code, text))
        return list(found.values())

    @cached_property
    def _answer_numbers(self) -> Mapping[tuple[str, str], int]:
        return {(answer.language, answer.text): number for number, answer in enumerate(self._answers)}

    def _splits(self, fact: Fact) -> dict[tuple[int, str], str]:
        return {
            (wording, code): split for code in self._codes for wording, split in enumerate(question_splits(fact, code))
        }

    @cache  # noqa: B019 - a plan lives as long as its process
    def _forms(self, fact: Fact) -> Sequence[tuple[int, str]]:
        """The wordings and languages of a fact in the order in which it is asked, one of the train split first."""
        splits = self._splits(fact)
        forms = list(splits)
        draw(self.section.seed, "forms", fact.kind, *fact.slots).shuffle(forms)
        if fact in self._facts[:2]:
            forms.sort(key=lambda form: splits[form] == "train")
        first = next(form for form in forms if splits[form] == "train")
        return [first, *(form for form in forms if form != first)]

    @cached_property
    def _meanings(self) -> npt.NDArray[np.int32]:
        """Rows of (kind, index, split), all different, in the order of the statements; kinds in even shares."""
        concepts = self.section.concepts
        sizes = [
            num_meanings(kind) if concepts is None else int((largest_choices(kind) < concepts).sum())
            for kind in self.statement_kinds
        ]
        counts = _fill(sizes, min(self.num_statements, sum(sizes)))
        rows = []
        for place, (kind, count) in enumerate(zip(self.statement_kinds, counts, strict=True)):
            chosen = meanings_of(kind, count, self.section.seed, phase=(place + 0.5) / len(sizes), concepts=concepts)
            rows.append(np.insert(chosen, 0, place, axis=1))
        shuffled = np.random.default_rng(self.section.seed).permutation(np.concatenate(rows))
        return shuffled.astype(np.int32)

    def _speaker(self, name: str, split: str) -> Speaker:
        return draw(self.section.seed, "speaker", name).choice(pools()[split])


@cache
def plan_of(section: CorpusSection) -> Plan:
    """The plan of some settings, worked out once a process."""
    return Plan(section)


def _id(language: str, letter: str, number: int) -> str:
    return f"{language}-{letter}-{number:06d}"


def _fill(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` among parts as evenly as their sizes allow."""
    counts = [0] * len(sizes)
    for taken, part in enumerate(sorted(range(len(sizes)), key=lambda part: sizes[part])):
        counts[part] = min(sizes[part], (total - sum(counts)) // (len(sizes) - taken))
    counts[max(range(len(sizes)), key=lambda part: sizes[part])] += total - sum(counts)
    return counts

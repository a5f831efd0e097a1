"""What the utterances of a plan bring to the tables of text: translation pairs and dialogues.

Rows belong to utterances by number, so that each shard writes its own and all shards together write each row once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cslm.demo.plan import Plan, Question
from cslm.demo.splits import question_splits


def translations(plan: Plan, number: int) -> Iterator[dict[str, Any]]:
    """The rows of `parallel_text` that an utterance brings; later repeats of its text bring none.

    A question pairs only with wordings of its own split, so that a held-out question is in no pair of another split.
    """
    codes = plan.section.languages
    if number < plan.num_answers:
        fact, wording, code = plan.answer_source(number)
        texts = {other: plan.answers(fact, other)[wording] for other in codes}
        audio = {other: plan.answer_id(other, text) for other, text in texts.items()}
        yield from _pairs(texts, audio, f"a{number:06d}", "train", [code])
        return
    number -= plan.num_answers_said
    if number < 0:
        return
    if number < plan.num_questions:
        question = plan.question(number)
        if question.is_repeat:
            return
        fact, wording = question.fact, question.wording
        same = [code for code in codes if question_splits(fact, code)[wording] == question.split]
        texts = {code: plan.ask(fact, wording, code) for code in same}
        audio = {question.language: question.id}
        yield from _pairs(texts, audio, f"q{number:06d}", question.split, [question.language])
        return
    number -= plan.num_questions
    if not plan.is_repeated_statement(number):
        said, split = plan.statement(number)
        texts = {code: plan.languages[code].state(said) for code in codes}
        spoken = plan.utterance(plan.num_answers_said + plan.num_questions + number)
        yield from _pairs(texts, {spoken.language: spoken.id}, f"s{number:06d}", split, codes)


def dialogues(plan: Plan, number: int) -> Iterator[dict[str, Any]]:
    """The rows of `dialogues` that an utterance brings: a question, answered in every language.

    Some questions are also asked in text only, answered in text in one language.
    """
    number -= plan.num_answers_said
    if not 0 <= number < plan.num_questions:
        return
    question = plan.question(number)
    codes = plan.section.languages
    for code in codes:
        yield _dialogue(plan, question, code, f"{question.language}-{code}-d{number:06d}", is_spoken=True)
    share = plan.section.text_dialogue_share
    earlier, now = int(number * share), int((number + 1) * share)
    if now > earlier:
        code = codes[earlier % len(codes)]
        yield _dialogue(plan, question, code, f"{question.language}-{code}-t{number:06d}", is_spoken=False)


def _dialogue(plan: Plan, question: Question, code: str, name: str, *, is_spoken: bool) -> dict[str, Any]:
    reply = plan.choose_answer(name, question.fact, code)
    return {
        "id": name,
        "kind": question.fact.kind,
        "turns": [
            {
                "role": "user",
                "language": question.language,
                "text": plan.ask(question.fact, question.wording, question.language),
                "audio": question.id if is_spoken else None,
            },
            {
                "role": "assistant",
                "language": code,
                "text": reply,
                "audio": plan.answer_id(code, reply) if is_spoken else None,
            },
        ],
        "accepted": list(plan.answers(question.fact, code)),
        "split": question.split,
    }


def _pairs(
    texts: Mapping[str, str], audio: Mapping[str, str], name: str, split: str, sources: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """`audio`: of the languages in which the corpus says it the utterance that does."""
    for source in sources:
        for target in texts:
            if target != source:
                yield {
                    "id": f"{source}-{target}-{name}",
                    "source_language": source,
                    "target_language": target,
                    "source": texts[source],
                    "target": texts[target],
                    "source_audio": audio.get(source),
                    "target_audio": audio.get(target),
                    "split": split,
                }

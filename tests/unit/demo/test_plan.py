from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cslm.demo.facts import all_facts
from cslm.demo.grammar import STATEMENTS
from cslm.demo.plan import CorpusSection, Plan
from cslm.demo.speakers import ANSWERER, TEST_ONLY_VARIANTS
from cslm.demo.tables import dialogues, translations

corpora = st.builds(
    CorpusSection,
    num_utterances=st.integers(100, 900),
    languages=st.permutations(["en", "zh", "es", "fr"]).flatmap(
        lambda codes: st.integers(1, 4).map(lambda num: tuple(codes[:num]))
    ),
    seed=st.integers(0, 99),
    dialogue_share=st.sampled_from([0.2, 0.55, 0.8]),
    statement_kinds=st.none() | st.sets(st.sampled_from(list(STATEMENTS)), min_size=4).map(tuple),
    fact_kinds=st.none() | st.just(("addition", "colour", "opposite")),
    answer_takes=st.integers(1, 3),
    answerer_share=st.sampled_from([0.0, 0.3]),
)


def everything(plan):
    utterances = [plan.utterance(number) for number in range(plan.num_utterances)]
    pairs = [pair for number in range(plan.num_utterances) for pair in translations(plan, number)]
    exchanges = [row for number in range(plan.num_utterances) for row in dialogues(plan, number)]
    return utterances, pairs, exchanges


@settings(max_examples=20, deadline=None, derandomize=True)
@given(corpora)
def test_splits_share_no_sentence_and_no_speaker(section):
    utterances, pairs, exchanges = everything(Plan(section))
    texts = [(row.text, row.split) for row in utterances]
    texts += [(text, pair["split"]) for pair in pairs for text in (pair["source"], pair["target"])]
    texts += [(row["turns"][0]["text"], row["split"]) for row in exchanges]
    splits_of = {}
    for text, split in texts:
        splits_of.setdefault(text, set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {split for splits in splits_of.values() for split in splits} == {"train", "dev", "test"}

    speakers = {split: {row.speaker for row in utterances if row.split == split} for split in ("train", "dev", "test")}
    assert not speakers["train"] & (speakers["dev"] | speakers["test"])
    assert not speakers["dev"] & speakers["test"]
    variants = {row.speaker.variant for row in utterances if row.split != "test"}
    assert not variants & set(TEST_ONLY_VARIANTS)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(corpora)
def test_a_held_out_fact_is_asked_in_train_in_another_question(section):
    plan = Plan(section)
    questions = [plan.question(number) for number in range(plan.num_questions)]
    in_train = {question.fact for question in questions if question.split == "train"}
    held_out = [question for question in questions if question.split != "train"]
    assert held_out
    assert all(question.fact in in_train for question in held_out)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(corpora, corpora)
def test_what_one_corpus_tests_no_other_corpus_trains_on(one, other):
    splits_of = {}
    for section in (one, other):
        utterances, pairs, _ = everything(Plan(section))
        for row in utterances:
            splits_of.setdefault(row.text, set()).add(row.split)
        for pair in pairs:
            splits_of.setdefault(pair["source"], set()).add(pair["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(corpora)
def test_rows_are_whole_and_refer_to_each_other(section):
    plan = Plan(section)
    utterances, pairs, exchanges = everything(plan)
    by_id = {row.id: row for row in utterances}
    for rows in (utterances, pairs, exchanges):
        ids = [row["id"] if isinstance(row, dict) else row.id for row in rows]
        assert len(set(ids)) == len(ids)
    assert len({(pair["source"], pair["target"]) for pair in pairs if pair["split"] != "train"}) == sum(
        pair["split"] != "train" for pair in pairs
    )
    for row in exchanges:
        user, assistant = row["turns"]
        assert assistant["text"] in row["accepted"]
        if user["audio"] is None:
            assert assistant["audio"] is None
            continue
        for turn in (user, assistant):
            spoken = by_id[turn["audio"]]
            assert (spoken.text, spoken.language) == (turn["text"], turn["language"])
        assert by_id[user["audio"]].split == row["split"]
        assert by_id[assistant["audio"]].speaker == ANSWERER
        assert by_id[assistant["audio"]].split == "train"


def test_the_demo_corpus_has_the_promised_proportions():
    plan = Plan(CorpusSection())
    utterances, pairs, exchanges = everything(plan)
    assert len(utterances) == 8000
    assert plan.num_facts == len(all_facts())
    splits = Counter(row.split for row in utterances)
    assert 0.05 < splits["test"] / 8000 < 0.08
    assert 0.025 < splits["dev"] / 8000 < 0.04
    assert set(Counter(row.language for row in utterances).values()) <= set(range(2500, 2850))

    held_out = [row for row in exchanges if row["split"] == "test" and row["turns"][0]["audio"]]
    directions = Counter(tuple(turn["language"] for turn in row["turns"]) for row in held_out)
    assert len(directions) == 9
    assert min(directions.values()) >= 60
    kinds = Counter(row["kind"] for row in held_out)
    assert len(kinds) == 14
    assert min(kinds.values()) >= 9
    assert Counter((pair["source_language"], pair["target_language"]) for pair in pairs).keys() == {
        (one, other) for one in plan.languages for other in plan.languages if one != other
    }


def test_a_meaning_used_up_comes_again_in_another_language_but_in_no_second_translation():
    plan = Plan(CorpusSection(num_utterances=3000, statement_kinds=("weather_is",)))
    size = 6 * 5 * 12
    assert plan.num_statements > 2 * size
    assert plan.statement(3) == plan.statement(3 + size)
    first = plan.num_answers_said + plan.num_questions
    languages = {plan.utterance(first + 3 + turn * size).language for turn in range(2)}
    assert len(languages) == 2
    assert list(translations(plan, first + 3))
    assert not list(translations(plan, first + 3 + size))


def test_answers_are_said_by_others_too_and_the_voice_that_answers_says_more():
    plan = Plan(
        CorpusSection(num_utterances=900, languages=("en",), fact_kinds=("colour",), answer_takes=4, answerer_share=0.3)
    )
    said = [plan.utterance(number) for number in range(plan.num_answers_said)]
    assert set(Counter(row.text for row in said).values()) == {4}
    assert all((row.speaker == ANSWERER) == (number < plan.num_answers) for number, row in enumerate(said))
    statements = [plan.utterance(number) for number in range(900 - plan.num_statements, 900)]
    by_answerer = [row for row in statements if row.speaker == ANSWERER]
    in_train = [row for row in statements if row.split == "train"]
    assert 0.2 < len(by_answerer) / len(in_train) < 0.4
    assert all(row.split == "train" for row in by_answerer)


def test_only_the_chosen_kinds_are_said_and_asked():
    section = CorpusSection(
        num_utterances=600, statement_kinds=("things", "animal_at"), fact_kinds=("opposite", "colour")
    )
    plan = Plan(section)
    assert section.statement_kinds == ("animal_at", "things")
    assert {plan.statement(number)[0].kind for number in range(plan.num_statements)} == {"animal_at", "things"}
    assert {plan.question(number).fact.kind for number in range(plan.num_questions)} == {"opposite", "colour"}
    assert {row.split for row in map(plan.utterance, range(600))} == {"train", "dev", "test"}


def test_another_seed_gives_another_corpus_and_the_same_seed_the_same():
    one, same, other = (Plan(CorpusSection(num_utterances=300, seed=seed)) for seed in (5, 5, 6))
    assert everything(one) == everything(same)
    assert everything(one) != everything(other)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint


def test_shards_cover_every_utterance_once():
    plan = Plan(CorpusSection(num_utterances=333, shard_size=50))
    assert [number for index in range(plan.num_shards) for number in plan.shard(index)] == list(range(333))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"languages": ("en", "xx")}, "must be among en, es, fr, zh, found xx"),
        ({"languages": ("en", "en")}, "each language once"),
        ({"statement_kinds": ("things", "poems")}, "must be among animal_does, .*, found poems"),
        ({"fact_kinds": ("bugs",)}, "must be among addition, .*, found bugs"),
        ({"num_utterances": 20}, "greater than or equal to 100"),
    ],
)
def test_settings_that_make_no_corpus_are_refused(values, fault):
    with pytest.raises(ValidationError, match=fault):
        CorpusSection(**values)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(corpora)
def test_the_utterances_of_a_pair_say_its_texts(section):
    utterances, pairs, _ = everything(Plan(section))
    said = {row.id: (row.language, row.text, row.split) for row in utterances}
    spoken = [pair for pair in pairs if pair["source_audio"]]
    assert {pair["id"].rpartition("-")[2][0] for pair in spoken} == {"a", "q", "s"} & {
        pair["id"].rpartition("-")[2][0] for pair in pairs
    }
    for pair in spoken:
        assert said[pair["source_audio"]] == (pair["source_language"], pair["source"], pair["split"])
        if pair["target_audio"]:
            assert said[pair["target_audio"]] == (pair["target_language"], pair["target"], pair["split"])
    assert bool([pair for pair in spoken if pair["target_audio"]]) == (len(section.languages) > 1)

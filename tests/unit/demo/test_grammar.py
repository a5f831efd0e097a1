import re
from itertools import product

import pytest

from cslm.demo.facts import all_facts, fact_kinds
from cslm.demo.grammar import (
    STATEMENTS,
    Meaning,
    as_sentence,
    available_languages,
    load_language,
    meaning,
    num_meanings,
)
from cslm.demo.plan import NUM_ANSWER_WORDINGS
from cslm.demo.splits import NUM_QUESTION_WORDINGS
from cslm.errors import ConfigError

LANGUAGES = available_languages()


def sample(kind, count=2000):
    """Meanings of a kind, evenly spread, every one when there are few."""
    size = num_meanings(kind)
    return [meaning(kind, index) for index in range(0, size, max(1, size // count))]


def assert_well_formed(text):
    assert text == text.strip()
    assert "  " not in text
    assert not re.search(r"[{}_\[\]]|\bNone\b", text), text
    assert text[-1] in ".?。？", text
    first = text.lstrip("¿")[0]
    assert first == first.upper(), text


@pytest.mark.parametrize(("code", "kind"), list(product(LANGUAGES, STATEMENTS)))
def test_every_statement_is_a_sentence_of_its_own(code, kind):
    language = load_language(code)
    texts = [language.state(said) for said in sample(kind)]
    for text in texts:
        assert_well_formed(text)
        num_words = len(re.findall(r"\w", text)) if code == "zh" else len(text.split())
        assert 3 <= num_words <= (17 if code == "zh" else 12), text
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("code", "kind"), list(product(LANGUAGES, fact_kinds())))
def test_every_fact_has_all_wordings(code, kind):
    language = load_language(code)
    for fact in (fact for fact in all_facts() if fact.kind == kind):
        exchange = language.exchange(fact.kind, fact.slots)
        assert len(set(exchange.questions)) == NUM_QUESTION_WORDINGS
        assert len(set(exchange.answers)) == NUM_ANSWER_WORDINGS
        for text in exchange.questions + exchange.answers:
            assert_well_formed(text)


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_two_facts_share_a_question(code):
    language = load_language(code)
    questions = [text for fact in all_facts() for text in language.exchange(fact.kind, fact.slots).questions]
    assert len(set(questions)) == len(questions)


def test_there_are_hundreds_of_thousands_of_sentences():
    meanings = sum(map(num_meanings, STATEMENTS))
    assert meanings * 3 > 500_000
    assert 200 < len(all_facts()) < 500


def test_a_meaning_is_found_by_its_number():
    kind = "person_has"
    everything = {meaning(kind, index) for index in range(num_meanings(kind))}
    assert len(everything) == num_meanings(kind)


def said(code, kind, *slots):
    return load_language(code).state(Meaning(kind, slots))


def test_spanish_agrees_and_contracts():
    assert said("es", "thing_is", "small", "yellow", "chair", "near", "sofa") == (
        "La silla amarilla pequeña está cerca del sofá."
    )
    assert (
        said("es", "person_goes", "driver", "market", "Monday", "1") == "El conductor va al mercado el lunes a la una."
    )
    assert said("es", "there_are", "4", "brown", "cow", "park") == "Hay cuatro vacas marrones en el parque."
    assert said("es", "person_has", "old", "singer", "2", "blue", "umbrella") == (
        "La cantante vieja tiene dos paraguas azules."
    )


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        ("en", ("The black sheep is at the station.", "Three white boxes.", "The doctor eats on Monday.")),
        ("es", ("La oveja negra está en la estación.", "Tres cajas blancas.", "La doctora come el lunes.")),
        ("fr", ("Le mouton noir est à la gare.", "Trois boîtes blanches.", "Le médecin mange lundi.")),
        ("zh", ("黑色的羊在车站里。", "三个白色的盒子。", "医生星期一吃东西。")),
    ],
)
def test_short_statements(code, texts):
    concepts = {"animal_at": ("black", "sheep", "station"), "things": ("3", "white", "box")}
    concepts["person_acts"] = ("doctor", "eat", "Monday")
    assert tuple(said(code, kind, *slots) for kind, slots in concepts.items()) == texts


def test_french_elides_and_agrees():
    assert said("fr", "person_handles", "old", "student", "buy", "white", "box", "morning") == (
        "Le vieil étudiant achète une boîte blanche le matin."
    )
    assert said("fr", "person_gives", "student", "give", "bird", "green", "ball") == (
        "L'étudiant donne une balle verte à l'oiseau."
    )
    assert said("fr", "there_are", "3", "grey", "horse", "market") == "Il y a trois chevaux gris au marché."
    opposite = load_language("fr").exchange("opposite", ("open", "closed"))
    assert opposite.questions[0] == "Quel est le contraire d'ouvert ?"
    assert load_language("fr").exchange("capital", ("Japan", "Tokyo")).answers[2] == "La capitale du Japon est Tokyo."


def test_mandarin_counts_with_measure_words():
    assert said("zh", "there_are", "2", "white", "horse", "garden") == "花园里有两匹白色的马。"
    assert said("zh", "person_goes", "doctor", "school", "Sunday", "2") == "医生星期日两点去学校。"
    assert load_language("zh").exchange("addition", ("1", "1", "2")).answers[2] == "一加一等于二。"


def test_english_articles_and_plurals():
    assert said("en", "there_are", "12", "black", "sheep", "station") == "There are twelve black sheep at the station."
    assert load_language("en").exchange("bigger", ("ant", "elephant", "elephant")).answers[2] == (
        "An elephant is bigger than an ant."
    )


def test_a_respelling_keeps_positions():
    text = "公园里有三只白色的鸟。"
    spoken = load_language("zh").spoken(text)
    assert spoken != text
    assert len(spoken) == len(text)


def test_sentences_begin_with_a_capital_past_the_opening_mark():
    assert as_sentence("¿qué es?") == "¿Qué es?"
    assert as_sentence("九。") == "九。"


def test_an_unknown_language_is_refused_by_name():
    with pytest.raises(ConfigError, match="found tlh"):
        load_language("tlh")

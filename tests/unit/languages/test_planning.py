"""What is due: new cards, grown data, other tokenizers and recipes; what was refused is not tried twice."""

from dataclasses import replace

from cslm.languages import planning
from cslm.languages.card import Card
from cslm.languages.drops import Drop
from cslm.languages.planning import DueSection, Made, Planned
from cslm.languages.state import TOGETHER, Attempt, Champion, Known

MADE = Made("tokenizer-1", "recipe-1", "tables-1", "continuing-1", "judging-1")


def card(code: str, **changes: object) -> Card:
    document = {
        "name": code,
        "code": code,
        "script": "Latn",
        "sources": {"speech": [{"manifest": f"{code}.jsonl"}]},
        "targets": {f"asr/{code}/cer": 0.2},
    }
    return Card.model_validate({**document, **changes})


CARDS = {code: card(code) for code in ("en", "es", "fr")}
DROPS = {code: Drop(f"drop-{code}", 1000) for code in CARDS}
KNOWN = {code: Known("card", f"drop-{code}", 1000, {}) for code in ("en", "es")}
CHAMPION = Champion("all-1", "model", "tokenizer-1", "recipe-1", KNOWN, {})


def plan(
    tried: dict[str, Attempt] | None = None,
    champion: Champion | None = CHAMPION,
    *,
    cards: dict[str, Card] = CARDS,
    drops: dict[str, Drop] = DROPS,
    made: Made = MADE,
) -> tuple[list[Planned], dict[str, str]]:
    return planning.plan(cards, drops, tried or {}, champion, made, DueSection(growth=0.2))


def attempt(one: Planned, ending: str) -> dict[str, Attempt]:
    return {one.name: Attempt(one.key, one.run, ending)}  # type: ignore[arg-type]


def test_without_a_champion_all_languages_are_trained_together() -> None:
    (one,), _ = plan(champion=None)
    assert (one.name, one.languages, one.replayed, one.continues) == (TOGETHER, ("en", "es", "fr"), (), False)
    assert one.run.startswith("all-")
    # How a champion would be continued does not matter where there is none.
    (same,), _ = plan(champion=None, made=replace(MADE, continuing="continuing-2"))
    assert same.run == one.run


def test_a_new_card_is_due_and_the_others_are_replayed() -> None:
    (one,), waiting = plan()
    assert (one.languages, one.replayed, one.continues) == (("fr",), ("en", "es"), True)
    assert one.reason == "its card is new"
    assert set(waiting) == {"en", "es"}


def test_data_is_due_when_it_has_grown_past_the_threshold() -> None:
    for num_bytes, due in ((1199, False), (1200, True)):
        found, _ = plan(drops={**DROPS, "en": Drop("more", num_bytes)})
        assert [one.name for one in found] == (["en", "fr"] if due else ["fr"])
    (one, _), _ = plan(drops={**DROPS, "en": Drop("more", 1500)})
    assert one.reason == "its data grew by 50%"
    assert one.replayed == ("es",)


def test_languages_are_due_in_the_order_of_the_cards() -> None:
    cards = {"fr": CARDS["fr"], "de": card("de"), "en": CARDS["en"], "es": CARDS["es"]}
    found, _ = plan(cards=cards, drops={**DROPS, "de": Drop("d", 1)})
    assert [one.name for one in found] == ["fr", "de"]


def test_what_was_refused_is_due_again_with_another_card_data_or_gate_only() -> None:
    (one,), _ = plan()
    refused = attempt(one, "refused")
    found, waiting = plan(refused)
    assert found == []
    assert "refused" in waiting["fr"]
    # Another champion is no reason: the data is the same.
    assert plan(refused, replace(CHAMPION, run="all-2"))[0] == []
    assert plan(refused, drops={**DROPS, "fr": Drop("other", 1000)})[0][0].run != one.run
    # What is only judged otherwise goes on as the same run: nothing is trained anew.
    (again,), _ = plan(refused, cards={**CARDS, "fr": card("fr", targets={"asr/fr/cer": 0.9})})
    assert again.run == one.run
    (again,), _ = plan(refused, made=replace(MADE, judging="judging-2"))
    assert again.run == one.run
    for other in (replace(MADE, continuing="continuing-2"), replace(MADE, tables="tables-2")):
        (again,), _ = plan(refused, made=other)
        assert again.run != one.run


def test_what_was_interrupted_or_failed_goes_on_as_the_same_run() -> None:
    (one,), _ = plan()
    for ending in ("running", "failed", "over budget"):
        (again,), _ = plan(attempt(one, ending))
        assert again.run == one.run
        assert "goes on" in again.reason
    (other,), _ = plan(attempt(one, "running"), replace(CHAMPION, run="all-2"))
    assert other.run != one.run


def test_what_was_taken_back_is_not_tried_again() -> None:
    (one,), _ = plan()
    found, waiting = plan(attempt(one, "promoted"))
    assert found == []
    assert "taken back" in waiting["fr"]


def test_a_new_tokenizer_or_recipe_makes_all_due_together() -> None:
    for made, why in ((replace(MADE, tokenizer="t2"), "tokenizer"), (replace(MADE, recipe="r2"), "recipe")):
        (one,), _ = plan(made=made)
        assert (one.name, one.continues, one.replayed) == (TOGETHER, False, ())
        assert why in one.reason
    # Refused with the recipe: the champion still takes new languages. With the tokenizer it cannot.
    (one,), _ = plan(made=replace(MADE, recipe="r2"))
    found, _ = plan(attempt(one, "refused"), made=replace(MADE, recipe="r2"))
    assert [each.name for each in found] == ["fr"]
    (one,), _ = plan(made=replace(MADE, tokenizer="t2"))
    found, waiting = plan(attempt(one, "refused"), made=replace(MADE, tokenizer="t2"))
    assert found == []
    assert set(waiting) == {"en", "es", "fr"}


def test_a_language_whose_data_cannot_be_looked_at_is_not_planned() -> None:
    found, waiting = plan(drops={"en": DROPS["en"]})
    assert found == []
    assert set(waiting) == {"en"}

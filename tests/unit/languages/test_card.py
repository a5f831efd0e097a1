"""Cards: what they take, what they refuse all at once, and that schema and shipped cards say the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cslm.errors import ConfigError
from cslm.languages import card, scripts
from cslm.languages.card import Card

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "jobs" / "configs" / "retrain" / "cards"


def document(**changes: Any) -> dict[str, Any]:
    whole = {
        "name": "French",
        "code": "fr",
        "script": "Latn",
        "sources": {"speech": [{"manifest": "s3://bucket/fr.jsonl"}], "dialogues": [{"uri": "dialogues"}]},
        "targets": {"asr/fr/cer": 0.2},
    }
    return {**whole, **changes}


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")


def faults(folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        card.load_all(str(folder))
    return caught.value.faults


def test_a_folder_of_cards_is_read_by_priority(tmp_path: Path) -> None:
    write(tmp_path, "fr.yaml", document())
    write(tmp_path, "zh.yaml", document(code="zh", script="Hans", words="segmented", name="Chinese", priority=5))
    (tmp_path / "README.md").write_text("no card")
    found = card.load_all(str(tmp_path))
    assert list(found) == ["zh", "fr"]
    assert found["fr"].sources.speech[0].manifest == "s3://bucket/fr.jsonl"
    assert found["fr"].filters.require_text is False


def test_every_fault_of_every_card_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "fr.yaml", document(code="FR", script="Latin", colour="red", targets={"cer": 1.0}))
    write(tmp_path, "de.yaml", document())
    write(tmp_path, "zh.yaml", document(code="zh", script="Hans"))
    write(tmp_path, "it.yaml", document(code="it", sources={"speech": [{"manifest": "x", "rate": 1}]}))
    write(tmp_path, "es.yaml", {"code": "es"})
    (tmp_path / "nl.yaml").write_text("name: [")
    told = "\n".join(faults(tmp_path))
    for one in (
        "fr.yaml: code: must be written fr, found FR",
        "fr.yaml: script: must be one of",
        "fr.yaml: colour: unknown key",
        "fr.yaml: targets: must be named task/language/measure",
        "de.yaml: code: a card must be named after its code, fr.yaml",
        "zh.yaml: words: zh is segmented here, found spaced",
        "it.yaml: sources.speech.0.rate: unknown key",
        "es.yaml: name: required",
        "es.yaml: targets: required",
        "nl.yaml: must be YAML",
    ):
        assert one in told


def test_a_folder_without_cards_is_a_fault(tmp_path: Path) -> None:
    assert "must be a folder of cards" in faults(tmp_path)[0]


def test_a_table_says_its_languages_itself(tmp_path: Path) -> None:
    sources = document()["sources"] | {"parallel_text": [{"uri": "p", "source_language": "en"}]}
    write(tmp_path, "fr.yaml", document(sources=sources))
    assert "source_language must be left out of a table" in faults(tmp_path)[0]


def test_targets_and_names_do_not_change_what_a_card_teaches() -> None:
    one = Card.model_validate(document())
    for same in ({"targets": {"asr/fr/cer": 0.5}}, {"name": "Français"}, {"priority": 3}):
        assert Card.model_validate(document(**same)).taught == one.taught
    assert Card.model_validate(document(targets={"asr/fr/cer": 0.5})).fingerprint != one.fingerprint
    assert Card.model_validate(document(priority=3)).fingerprint == one.fingerprint
    other = Card.model_validate(document(filters={"require_text": True}))
    assert other.taught != one.taught


def test_the_schema_is_that_of_the_code() -> None:
    written = json.loads((ROOT / "schemas" / "language_card.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(card.schema())), (
        "python -m cslm.languages.card > schemas/language_card.json"
    )


def test_the_shipped_cards_are_those_of_the_demo() -> None:
    assert set(card.load_all(str(SHIPPED))) == {"en", "zh", "es", "fr"}


@pytest.mark.parametrize(
    ("text", "script", "share"),
    [
        ("Été, 3 fois!", "Latn", 1.0),
        ("二加三", "Hans", 1.0),
        ("二加ab", "Hans", 0.5),
        ("カナ漢", "Jpan", 1.0),
        ("12", "Latn", 0.0),
    ],
)
def test_the_script_of_a_text_is_told_by_its_letters(text: str, script: str, share: float) -> None:
    assert scripts.share([text], script) == pytest.approx(share)

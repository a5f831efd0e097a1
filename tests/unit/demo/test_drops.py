"""What each language brings: all of the corpus once, nothing that needs a language that is not there yet."""

from pathlib import Path

import pytest

from cslm import contracts, storage
from cslm.demo import drops
from cslm.errors import ConfigError

ORDER = ("en", "zh", "fr")


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    root = str(tmp_path / "corpus")
    utterances = [
        {
            "id": f"{code}-{n}",
            "audio": f"../audio/{code}-{n}.wav",
            "text": f"{code} {n}",
            "language": code,
            "split": "train",
        }
        for code in ORDER
        for n in range(20)
    ]
    pairs = [(one, other) for one in ORDER for other in ORDER]
    parallel = [
        {"id": f"{a}-{b}", "source_language": a, "target_language": b, "source": "x", "target": "y", "split": "train"}
        for a, b in pairs
        if a != b
    ]
    dialogues = [
        {
            "id": f"d-{a}-{b}",
            "kind": "k",
            "turns": [
                {"role": "user", "language": a, "text": "q", "audio": None},
                {"role": "assistant", "language": b, "text": "a", "audio": None},
            ],
            "accepted": ["a"],
            "split": "train",
        }
        for a, b in pairs
    ]
    for name, rows in (("utterances", utterances), ("parallel_text", parallel), ("dialogues", dialogues)):
        storage.write_table(contracts.load(name).table(rows), storage.join(root, name, "part-00000.parquet"))
    return root


def ids(target: Path, table: str, code: str) -> set[str]:
    return set(storage.read_table(str(target / table / code), ["id"]).column("id").to_pylist())


def test_every_row_comes_once_with_the_last_of_its_languages(corpus: str, tmp_path: Path) -> None:
    target = tmp_path / "drops"
    for code in ORDER:
        drops.bring(corpus, str(target), ORDER, code)
    assert ids(target, "dialogues", "en") == {"d-en-en"}
    assert ids(target, "dialogues", "zh") == {"d-en-zh", "d-zh-en", "d-zh-zh"}
    assert ids(target, "parallel_text", "en") == set()
    assert ids(target, "parallel_text", "fr") == {"en-fr", "fr-en", "zh-fr", "fr-zh"}
    rows = storage.read_table(str(target / "utterances" / "fr")).to_pylist()
    assert len(rows) == 20
    assert {row["audio"] for row in rows} == {f"{corpus}/audio/fr-{n}.wav" for n in range(20)}


def test_shuffled_transcripts_are_the_same_texts_of_other_utterances(corpus: str, tmp_path: Path) -> None:
    drops.bring(corpus, str(tmp_path / "good"), ORDER, "fr")
    drops.bring(corpus, str(tmp_path / "bad"), ORDER, "fr", shuffle_seed=1)
    good, bad = (storage.read_table(str(tmp_path / name / "utterances" / "fr")).to_pylist() for name in ("good", "bad"))
    assert [row["id"] for row in good] == [row["id"] for row in bad]
    assert sorted(row["text"] for row in good) == sorted(row["text"] for row in bad)
    assert sum(one["text"] != other["text"] for one, other in zip(good, bad, strict=True)) > 15


def test_a_corpus_without_the_language_is_told(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold es"):
        drops.bring(corpus, str(tmp_path / "drops"), (*ORDER, "es"), "es")

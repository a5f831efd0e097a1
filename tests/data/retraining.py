"""Language cards with small data, and stand-ins for the jobs of the chain: each leaves what the real one would.

How well a candidate does is told by `Jobs.skill`: a share of items by measure, which the evaluation writes down as
scores of single items, so that gate and bootstrap do their real work.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cslm import contracts, storage
from cslm.apps.retrain_commands import Commands
from cslm.evaluate import figures
from tests.data.tables import TOKENIZER

NUM_ITEMS = 40
NAMES = {"en": "English", "zh": "Chinese", "es": "Spanish", "fr": "French"}


def write_card(home: Path, code: str, **changes: Any) -> None:
    """A card in `cards/` whose data lies in `data/`."""
    document = {
        "name": NAMES[code],
        "code": code,
        "script": "Hans" if code == "zh" else "Latn",
        "words": "segmented" if code == "zh" else "spaced",
        "sources": {
            "speech": [{"manifest": f"data/{code}.jsonl"}],
            "dialogues": [{"uri": f"data/dialogues-{code}"}],
        },
        "targets": {f"asr/{code}/cer": 0.3, f"answer/{code}-{code}/accuracy": 0.5},
        **changes,
    }
    path = home / "cards" / f"{code}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")


def write_data(home: Path, code: str, num_rows: int = 20) -> None:
    """A manifest and a table of dialogues; no audio, as nothing listens."""
    folder = home / "data"
    folder.mkdir(exist_ok=True)
    rows = [{"id": f"{code}{n}", "audio": f"{code}{n}.wav", "text": "a", "language": code} for n in range(num_rows)]
    (folder / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    turns = [{"role": role, "language": code, "text": role, "audio": f"{code}0"} for role in ("user", "assistant")]
    row = {"id": f"d-{code}", "kind": "x", "turns": turns, "accepted": ["a"], "split": "train"}
    storage.write_table(contracts.load("dialogues").table([row]), str(folder / f"dialogues-{code}" / "part-0.parquet"))


def settings(home: Path, **changes: Any) -> list[str]:
    """A home with a tokenizer and configs of all jobs, and the command line of a tick in it."""
    if not (home / "tokenizer").exists():
        TOKENIZER.save(str(home / "tokenizer"))
    for job in ("tokenize", "align", "pretrain", "sft", "evaluate"):
        path = home / "configs" / f"{job}.yaml"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(yaml.safe_dump({"output": {"path": job}}))
    whole = {
        "output.path": home / "retrain",
        "languages": home / "cards",
        "recipe.tokenizer": home / "tokenizer",
        **{f"recipe.{job}": home / "configs" / f"{job}.yaml" for job in ("tokenize", "align", "pretrain", "sft")},
        "recipe.evaluate": home / "configs" / "evaluate.yaml",
        "registry.name": f"model-{home.name}",
        "gate.bootstrap.resamples": 200,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [part for key, value in whole.items() for part in (f"--{key}", str(value))]


class Jobs:
    """Stand-ins for the jobs; `started` are their steps in order, `documents` their configs, `fail` what goes wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.documents: dict[str, dict[str, Any]] = {}
        self.fail: dict[str, BaseException] = {}
        self.skill: dict[str, float] = {}
        self.grade = "go"
        self._trained = 0
        jobs = self

        def start(commands: Commands, name: str, command: Sequence[str]) -> None:
            jobs._work(name, storage.read_json(command[-1]))
            commands.spent = commands.spent.plus(36.0, 2.0)

        monkeypatch.setattr(Commands, "_start", start)

    def _work(self, name: str, document: dict[str, Any]) -> None:
        self.started.append(name)
        self.documents[name] = document
        if name in self.fail:
            raise self.fail[name]
        output, kind = document["output"]["path"], name.partition(" ")[0]
        summary: dict[str, Any] = getattr(self, f"_{kind}")(document, output)
        storage.write_json(
            f"{output}/summary.json", {"status": "done", "key": f"{name} {len(self.started)}", **summary}
        )

    def _tokenize(self, document: dict[str, Any], output: str) -> dict[str, Any]:
        code = document["corpus"]["language"]
        row = {
            "id": f"{code}0", "language": code, "split": "train", "text": "a", "units": [1, 2], "durations": [1, 1],
            "num_frames": 2, "frame_rate_hz": 50.0, "duration_s": 0.04, "tokenizer": TOKENIZER.fingerprint,
            "source": "a.wav", "source_sha256": "0" * 64,
        }  # fmt: skip
        table = contracts.load("units").table([row]).drop_columns(["language", "split"])
        storage.write_table(table, f"{output}/units/language={code}/split=train/shard-00000.parquet")
        TOKENIZER.save(f"{output}/tokenizer")
        return {"rows": {"accepted": 1, "rejected": 0}, "hours": 0.1}

    def _align(self, document: dict[str, Any], output: str) -> dict[str, Any]:
        return {}

    def _ceiling(self, document: dict[str, Any], output: str) -> dict[str, Any]:
        one = {"original_error": 0.1, "resynthesis_error": 0.2, "reader_error": 0.2, "usage": 0.9, "units_per_s": 20.0,
               "script_share": 1.0}  # fmt: skip
        data = document["data"]
        opinions = {code: {"grade": self.grade, "reasons": [f"{self.grade}: as told"]} for code in data["new"]}
        return {"listener": None, "languages": dict.fromkeys(data["units"], one), "opinions": opinions}

    def _pretrain(self, document: dict[str, Any], output: str) -> dict[str, Any]:
        self._trained += 1
        storage.write_text(f"{output}/model/config.json", str(self._trained))
        return {"steps": 1, "tokens": 512}

    _sft = _pretrain

    def _evaluate(self, document: dict[str, Any], output: str) -> dict[str, Any]:
        codes = sorted({part.removeprefix("language=")
                        for uri in storage.list_files(document["data"]["units"]) for part in uri.split("/")
                        if part.startswith("language=")})  # fmt: skip
        scores = []
        for code in codes:
            for task, metric, usual in (
                (f"asr/{code}", "cer", 0.1), (f"answer/{code}-{code}", "accuracy", 0.9),
                (f"answer/{code}-{code}", "off_target", 0.0),
            ):  # fmt: skip
                share = self.skill.get(f"{document['model']['path']}|{task}/{metric}",
                                       self.skill.get(f"{task}/{metric}", usual))  # fmt: skip
                for number in range(NUM_ITEMS):
                    scores.append(figures.score(task, metric, f"i{number}", [number < round(share * NUM_ITEMS), 1]))
        storage.write_table(figures.table(scores), f"{output}/scores/part-00000.parquet")
        predictions = contracts.load("predictions").table([])
        storage.write_table(predictions, f"{output}/predictions/part-00000.parquet")
        return {}

"""Ticks of retraining with stand-ins for the jobs: what is started, resumed, refused, promoted and told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cslm import storage
from cslm.apps import retrain
from cslm.languages import lease
from cslm.tracking import Registry
from tests.data.retraining import Jobs, settings, write_card, write_data

OLD = ("en", "zh", "es")
Tick = Callable[..., int]


@pytest.fixture
def jobs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Three languages with cards and data, and stand-ins for the jobs."""
    for code in OLD:
        write_card(home, code)
        write_data(home, code)
    return Jobs(monkeypatch)


@pytest.fixture
def tick(home: Path, jobs: Jobs) -> Tick:
    """Run the job; gives its exit code. `jobs.started` is what this tick started."""

    def run(**changes: object) -> int:
        jobs.started.clear()
        return retrain.main(settings(home, **changes))

    return run


def registry(home: Path) -> Registry:
    return Registry(f"model-{home.name}")


def numbers(home: Path) -> tuple[str | None, str | None]:
    """The versions that `champion` and `previous` are."""
    found = (registry(home).champion(), registry(home).previous())
    return tuple(one and one.number for one in found)  # type: ignore[return-value]


def bring_french(home: Path, **changes: object) -> None:
    write_card(home, "fr", **changes)
    write_data(home, "fr")


def test_a_card_and_data_are_enough_and_the_same_tick_again_does_nothing(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tick() == 0
    first = [f"tokenize {code} 0" for code in ("en", "es", "zh")]
    assert jobs.started == [*first, "ceiling", "align", "pretrain", "sft", "evaluate"]
    assert "model" not in jobs.documents["pretrain"]
    champion = registry(home).champion()
    assert champion is not None
    assert champion.tags["cslm.languages"] == "en,es,zh"
    assert numbers(home) == ("1", None)

    bring_french(home)
    assert tick() == 0
    assert jobs.started == [
        *("tokenize fr 0", "ceiling", "align", "pretrain", "sft", "evaluate", "evaluate champion"),
    ]
    assert numbers(home) == ("2", "1")
    now = registry(home).champion()
    assert now is not None
    assert now.tags["cslm.parent_version"] == "1"
    assert now.tags["cslm.languages"] == "en,es,fr,zh"
    assert {"cslm.tokenizer", "cslm.recipe", "cslm.data", "cslm.run"} <= set(now.tags)
    document = jobs.documents["pretrain"]
    assert document["model"]["path"] == champion.uri
    assert document["data"]["mixture"]["replay"] == {"languages": ["en", "es", "zh"], "share": 0.5, "beta": 0.5}
    assert jobs.documents["sft"]["model"]["path"].endswith("/pretrain/model")
    assert jobs.documents["evaluate champion"]["model"]["path"] == champion.uri
    units = storage.list_files(document["data"]["units"] + "/units", ".parquet")
    assert [storage.name(uri) for uri in units] == [
        f"{code}-0-shard-00000.parquet" for code in ("en", "es", "fr", "zh")
    ]

    capsys.readouterr()
    assert tick() == 0
    assert jobs.started == []
    said = capsys.readouterr().out
    assert "nothing is due" in said
    assert "retrain: done: nothing was due; the champion is version 2" in said


def test_the_run_of_a_chain_is_the_parent_of_its_report(home: Path, jobs: Jobs, tick: Tick) -> None:
    tick()
    bring_french(home)
    tick()
    summary = storage.read_json(str(home / "retrain" / "summary.json"))
    (run,) = summary["runs"].values()
    assert (run["ending"], run["version"], summary["champion"]) == ("promoted", "2", "2")
    html = Path(run["report"]).read_text(encoding="utf-8")
    for told in ("Retraining fr-", "promoted", "asr/fr", "before", "what the champion could do", "tokenize fr 0",
                 "take fr dialogues 0", "1 taken, 0 rejected"):  # fmt: skip
        assert told in html
    record = storage.read_json(storage.join(storage.parent(run["report"]), "mlflow_run.json"))
    from mlflow import MlflowClient

    from cslm.tracking import tracking_uri

    found = MlflowClient(tracking_uri=tracking_uri()).get_run(record["run_id"])
    assert found.data.tags["cslm.ending"] == "promoted"
    assert found.data.metrics["gate/asr/en/cer/after"] == pytest.approx(0.1)
    assert found.info.run_name == f"retrain {run['run']}"


def test_a_language_that_is_not_heard_is_refused_once_and_the_champion_stays(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    tick()
    bring_french(home)
    jobs.skill["asr/fr/cer"] = 0.9
    assert tick() == 3
    assert numbers(home) == ("1", None)
    told = capsys.readouterr()
    assert "asr/fr/cer: the card asks for at most 0.3, found 0.9" in told.err
    # The very same is not tried again; other data is, and a card that asks for less needs no training.
    assert tick() == 0
    assert jobs.started == []
    write_card(home, "fr", targets={"asr/fr/cer": 0.95})
    assert tick() == 0
    assert jobs.started == []
    assert numbers(home) == ("2", "1")


def test_other_data_of_a_refused_language_is_tried(home: Path, jobs: Jobs, tick: Tick) -> None:
    tick()
    bring_french(home)
    jobs.skill["asr/fr/cer"] = 0.9
    assert tick() == 3
    write_data(home, "fr", num_rows=21)
    del jobs.skill["asr/fr/cer"]
    assert tick() == 0
    assert jobs.started[0] == "tokenize fr 0"
    assert numbers(home) == ("2", "1")


def test_forgetting_is_refused(home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    tick()
    champion = registry(home).champion()
    assert champion is not None
    bring_french(home)
    jobs.skill |= {"asr/en/cer": 0.6, f"{champion.uri}|asr/en/cer": 0.1}
    assert tick() == 3
    assert numbers(home) == ("1", None)
    assert "asr/en/cer: 0.1 -> 0.6, a fall of 0.5" in capsys.readouterr().err


def test_what_the_tokenizer_does_not_carry_costs_no_training(home: Path, jobs: Jobs, tick: Tick) -> None:
    tick()
    bring_french(home)
    jobs.grade = "no-go"
    assert tick() == 3
    assert jobs.started == ["tokenize fr 0", "ceiling"]
    assert tick() == 0
    assert numbers(home) == ("1", None)


def test_a_run_that_is_killed_in_every_step_goes_on_there(home: Path, jobs: Jobs, tick: Tick) -> None:
    tick()
    bring_french(home)
    done: set[str] = set()
    for step in ("tokenize fr 0", "ceiling", "align", "pretrain", "sft", "evaluate", "evaluate champion"):
        jobs.fail = {step: KeyboardInterrupt()}
        assert tick() == 130
        assert not done & set(jobs.started)
        *finished, last = jobs.started
        assert last == step
        done |= set(finished)
    jobs.fail = {}
    assert tick() == 0
    assert jobs.started == ["evaluate champion"]
    assert numbers(home) == ("2", "1")


def test_a_run_that_is_killed_while_it_promotes_is_promoted_once(
    home: Path, jobs: Jobs, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick()
    bring_french(home)
    promote = Registry.promote

    def killed(self: Registry, version: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "promote", killed)
    assert tick() == 130
    assert numbers(home) == ("1", None)
    monkeypatch.setattr(Registry, "promote", promote)
    assert tick() == 0
    assert jobs.started == []
    assert numbers(home) == ("2", "1")


def test_the_failure_of_one_language_does_not_stop_another(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    from cslm.errors import CslmError

    for code in ("zh", "es"):
        (home / "cards" / f"{code}.yaml").unlink()
    tick()
    for code, priority in (("zh", 2), ("es", 1)):
        write_card(home, code, priority=priority)
    bring_french(home, sources={"speech": [{"manifest": "data/nowhere.jsonl"}]})
    jobs.fail["tokenize zh 0"] = CslmError("the disk of zh is full")
    assert tick() == 1
    told = capsys.readouterr().err
    assert "the disk of zh is full" in told
    assert "fr: sources.speech.0" in told
    assert "tokenize es 0" in jobs.started
    champion = registry(home).champion()
    assert champion is not None
    assert champion.tags["cslm.languages"] == "en,es"
    # It is tried again by the next tick, from the new champion.
    jobs.fail.clear()
    (home / "cards" / "fr.yaml").unlink()
    assert tick() == 0
    champion = registry(home).champion()
    assert champion is not None
    assert champion.tags["cslm.languages"] == "en,es,zh"


def test_the_plan_shows_steps_and_does_nothing(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tick(plan="true") == 0
    told = capsys.readouterr().out
    assert jobs.started == []
    assert numbers(home) == (None, None)
    for one in (
        "en, es, zh: due, there is no champion yet",
        "1. tokenize en",
        "pretrain: from the recipe's base model",
    ):
        assert one in told
    tick()
    bring_french(home)
    capsys.readouterr()
    assert tick(plan="true") == 0
    told = capsys.readouterr().out
    for one in ("fr: due, its card is new", "with replay of en, es, zh", "en is not due", "asr/fr/cer 0.3"):
        assert one in told
    assert jobs.started == []


def test_a_rollback_makes_the_previous_version_the_champion_and_is_not_undone(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    tick()
    bring_french(home)
    tick()
    assert tick(rollback="true") == 0
    assert numbers(home) == ("1", None)
    assert "version 2 of" in capsys.readouterr().out
    assert tick() == 0
    assert jobs.started == []
    assert numbers(home) == ("1", None)
    assert tick(rollback="true") == 2


def test_every_fault_of_cards_and_settings_is_told_at_once(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    write_card(home, "en", script="Latin", targets={"cer": 1})
    write_card(home, "fr", prompts=str(home / "none.yaml"))
    assert tick(recipe__tokenizer=home / "nowhere", recipe__sft=home / "nothing.yaml") == 2
    told = capsys.readouterr().err
    for one in ("en.yaml: script", "en.yaml: targets", "recipe.tokenizer", "recipe.sft"):
        assert one in told
    assert jobs.started == []


def test_a_second_tick_at_a_time_is_refused(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_TRIES", 1)
    with lease.hold(str(home / "retrain"), 60, "another tick"):
        assert tick() == 1
    assert "one process at a time" in capsys.readouterr().err
    assert jobs.started == []


def test_a_run_that_reaches_its_budget_ends_and_goes_on_when_it_is_raised(
    home: Path, jobs: Jobs, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cslm.apps.retrain_commands import Commands, OverBudget
    from cslm.languages import budget

    start = Commands._start

    def limited(self: Commands, name: str, command: list[str]) -> None:
        if budget.left_s(self.spent, 2.0, self._limits) <= 0:
            raise OverBudget(budget.told(self.spent, self._limits))
        start(self, name, command)
        storage.write_json(f"{self._folder}/spent.json", self.spent.__dict__)

    monkeypatch.setattr(Commands, "_start", limited)
    # Every stand-in costs 36 s on two GPUs: 0.02 GPU-hours.
    assert tick(budget__gpu_hours=0.05) == 1
    assert len(jobs.started) == 3
    assert tick(budget__gpu_hours=0.05) == 1
    assert jobs.started == []
    assert tick(budget__gpu_hours=1.0) == 0
    assert numbers(home) == ("1", None)


def test_a_new_tokenizer_makes_all_languages_due_together_from_the_base(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from cslm.speech.tokenizers import KMeansSection
    from cslm.speech.tokenizers.kmeans import KMeansTokenizer

    tick()
    other = KMeansTokenizer(KMeansSection(codebook_size=4), np.eye(4, 39, dtype=np.float32))
    other.save(str(home / "other"))
    capsys.readouterr()
    assert tick(plan="true", recipe__tokenizer=home / "other") == 0
    told = capsys.readouterr().out
    assert "en, es, zh: due, the speech tokenizer is another one" in told
    assert "from the recipe's base model" in told


def test_units_for_systemd_run_ticks_of_the_same_settings(
    home: Path, jobs: Jobs, tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain.main([*settings(home, replay__share=0.25), "--print-systemd"]) == 2
    assert "every: required" in capsys.readouterr().err
    assert retrain.main([*settings(home, every="0 3 * * 1"), "--print-systemd"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("ExecStart=")]
    file = line.split()[-1]
    assert retrain.main(["--config", file]) == 0
    assert numbers(home) == ("1", None)

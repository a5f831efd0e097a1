"""The acts of the demo of a new language: in which order, how each must end, and where it goes on."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cslm import storage
from cslm.apps import demo_language
from cslm.errors import EXIT_DONE, EXIT_REFUSED, CslmError

ACTS = ["corpus", "tokenizer", "units", "voice", "champion", "poisoned", "forgetful", "french"]


class FakeCluster:
    """Takes jobs as the local cluster does; ticks end as `endings` has them and leave a summary."""

    submitted: list[str]
    endings: dict[str, int]

    def __enter__(self) -> "FakeCluster":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(
        self, name: str, entrypoint: Sequence[str], *, working_dir: str, env: Mapping[str, str], say: Callable[..., Any]
    ) -> int:
        self.submitted.append(name)
        run = {
            "ending": name,
            "version": None,
            "reasons": [],
            "report": f"{env['CSLM_HOME']}/retrain/runs/x/report.html",
        }
        storage.write_json(f"{env['CSLM_HOME']}/retrain/summary.json", {"runs": {"*": run}})
        return self.endings.get(name, EXIT_DONE)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Languages whose data was dropped, with whether transcripts were shuffled."""
    found: list[tuple[str, bool]] = []

    def bring(corpus: str, target: str, order: Sequence[str], language: str, *, shuffle_seed: int | None) -> None:
        found.append((language, shuffle_seed is not None))

    monkeypatch.setattr(demo_language.drops, "bring", bring)
    monkeypatch.setattr(demo_language, "LocalCluster", FakeCluster)
    FakeCluster.submitted = []
    FakeCluster.endings = {"poisoned": EXIT_REFUSED, "forgetful": EXIT_REFUSED}
    return found


def play(folder: Path) -> str:
    told = io.StringIO()
    config = demo_language.Config(output=demo_language.DemoOutputSection(path=str(folder)))
    assert demo_language.demo(config, Console(file=told, width=200)) == EXIT_DONE
    return told.getvalue()


def test_what_harms_is_refused_before_the_language_joins(tmp_path: Path, brought: list[tuple[str, bool]]) -> None:
    told = play(tmp_path)
    assert FakeCluster.submitted == ACTS
    assert brought == [("en", False), ("zh", False), ("es", False), ("fr", True), ("fr", False)]
    assert "before and after French" in told
    assert storage.exists(str(tmp_path / "cards" / "fr.yaml"))
    assert "before and after French" in play(tmp_path)
    assert FakeCluster.submitted == ACTS


def test_an_act_that_ends_otherwise_stops_the_demo_which_goes_on_there(
    tmp_path: Path, brought: list[tuple[str, bool]]
) -> None:
    FakeCluster.endings = {"poisoned": EXIT_DONE}
    with pytest.raises(CslmError, match="poisoned: must end with exit code 3, found 0"):
        play(tmp_path)
    FakeCluster.submitted, FakeCluster.endings = [], {"poisoned": EXIT_REFUSED, "forgetful": EXIT_REFUSED}
    play(tmp_path)
    assert FakeCluster.submitted == ACTS[5:]
    assert brought.count(("fr", True)) == 1


def test_every_config_that_is_named_is_there() -> None:
    named = [part for act in demo_language.ACTS for part in act.command if part.endswith(".yaml")]
    recipe = storage.read_yaml(f"{demo_language.ROOT}/jobs/configs/retrain/demo.yaml")["recipe"]
    named += [path for path in recipe.values() if path.endswith(".yaml")]
    assert len(named) >= 15
    assert not [path for path in named if not storage.exists(f"{demo_language.ROOT}/{path}")]

"""What the demo submits, skips and tells; with real jobs on a real cluster in tests/integration/test_demo.py."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cslm import storage
from cslm.apps import demo, demo_report, steps
from cslm.errors import CslmError

STEPS = ["corpus", "fit_tokenizer", "tokenize", "align", "pretrain", "sft", "decoder", "evaluate"]
SUMMARIES: dict[str, dict[str, Any]] = {
    "corpus": {},
    "fit_tokenizer": {
        "tokenizer": {"kind": "learned"},
        "qualities": {"character_error_rate": {"en": 0.021, "zh": 0.043}},
        "training": {"step": 400},
    },
    "tokenize": {
        "hours": 5.25,
        "units": 654_321,
        "rows": {"manifest": 8000, "accepted": 7999, "rejected": 1},
        "by_language": {"en": {}, "zh": {}},
    },
    "align": {"rows": {"asked": 704, "accepted": 703, "rejected": 1}, "words": 2529, "score": -1.15},
    "pretrain": {
        "steps": 300,
        "tokens": 2_457_600,
        "throughput": {"tokens_per_s": 7900.4},
        "loss_first": {"total": 6.5, "asr/en": 6.25},
        "loss_last": {"total": 1.5, "asr/en": 0.125},
    },
    "sft": {"steps": 40, "tokens": 9, "loss_first": {"answer/en-zh": 3.0}, "loss_last": {"answer/en-zh": 2.0}},
    "decoder": {"metrics": {"resynthesis/mean/cer": 0.3, "resynthesis/mean/ratio": 1.25}},
    "evaluate": {
        "metrics": {"answer/en-zh/accuracy": 0.25, "asr/en/cer": 0.034, "answer/en-zh/first_speech_s": 0.5},
        "counts": {"answer/en-zh": 40, "asr/en": 200},
        "items": {"answer/en-zh/accuracy": 40, "asr/en/cer": 200, "answer/en-zh/first_speech_s": 3},
    },
}


class FakeCluster:
    """Takes jobs as the local cluster does; a job's exit code and work are given by `behave`."""

    submitted: list[str]
    behave: Callable[[str], int]

    def __enter__(self) -> "FakeCluster":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(
        self,
        name: str,
        entrypoint: Sequence[str],
        *,
        working_dir: str,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> int:
        type(self).submitted.append(name)
        self.last = (list(entrypoint), working_dir, dict(env))
        say("\x1b[36m(Worker pid=7)\x1b[0m step 1/10")
        say("Writing model shards: 100%|██████████| 1/1 [00:00<00:00, 782.52it/s]")
        code = type(self).behave(name)
        if code == 0:
            key = f"{name} 1"
            document = {"status": "done", "key": key, "mlflow_run_id": f"run-{name}", **SUMMARIES[name]}
            storage.write_json(f"{env['CSLM_HOME']}/{name}/summary.json", document)
        return code


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeCluster]:
    """A checkout with the jobs' configs, and a cluster that does what it is told."""
    root = tmp_path / "root"
    for job in ("demo_corpus", *STEPS[1:]):
        name = "corpus" if job == "demo_corpus" else job
        storage.write_text(f"{root}/jobs/configs/{job}/demo.yaml", f"output:\n  path: {name}\n")
    storage.write_text(f"{root}/platform/cslm/code.py", "x = 1\n")
    monkeypatch.setattr(demo, "ROOT", str(root))
    monkeypatch.setattr(demo, "LocalCluster", FakeCluster)
    monkeypatch.setattr(FakeCluster, "submitted", [], raising=False)
    monkeypatch.setattr(FakeCluster, "behave", lambda name: 0, raising=False)
    return FakeCluster


@pytest.fixture
def run(tmp_path: Path, cluster: type[FakeCluster]) -> Callable[[], tuple[int, list[str], str]]:
    """Run the demo; gives exit code, submitted steps and what was said."""

    def run_demo() -> tuple[int, list[str], str]:
        cluster.submitted.clear()
        out = io.StringIO()
        config = demo.Config.model_validate({"output": {"path": str(tmp_path / "out")}})
        code = demo.demo(config, Console(file=out, width=150, highlight=False, markup=False))
        return code, list(cluster.submitted), out.getvalue()

    return run_demo


Run = Callable[[], tuple[int, list[str], str]]


def test_every_step_is_submitted_in_order_and_the_figures_are_told(run: Run, tmp_path: Path) -> None:
    code, submitted, said = run()
    assert (code, submitted) == (0, STEPS)
    document = storage.read_json(str(tmp_path / "out" / "summary.json"))
    assert (document["status"], document["hours"], document["units"]) == ("done", 5.25, 654_321)
    assert document["training"]["pretrain"]["throughput"] == {"tokens_per_s": 7900.4}
    assert document["metrics"]["asr/en/cer"] == 0.034
    assert set(document["wall_s"]) == {"total", *STEPS}
    for told in (
        "$ ray job submit --working-dir . -- jobs/pretrain.py --config jobs/configs/pretrain/demo.yaml",
        " -- python -m cslm.apps.demo_corpus --config jobs/configs/demo_corpus/demo.yaml",
        "5.25 hours in, 654,321 units out; 7,999 utterances taken, 1 rejected",
        "character error of the recogniser en 2.1%, zh 4.3%",
        "300 steps, 2,457,600 tokens, 7,900 tokens/s",
        "6.250 -> 0.125",
        "3.4%",
        "heard with 30.0% character error, 1.25 x the original's",
        "25.0%",
        "make ui",
    ):
        assert told in said
    waiting = said.partition("waiting for an answer")[2]
    (row,) = (line for line in waiting.splitlines() if "en-zh" in line)
    assert row.split("│")[2].strip() == "3"
    assert "  (Worker pid=7) step 1/10\n" in said
    assert "Writing model shards" not in said


def test_jobs_write_below_the_demos_folder_and_find_the_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, tuple[list[str], str, dict[str, str]]] = {}
    submit = FakeCluster.submit

    def note(self: FakeCluster, name: str, *arguments: Any, **options: Any) -> int:
        code = submit(self, name, *arguments, **options)
        seen[name] = self.last
        return code

    monkeypatch.setattr(FakeCluster, "submit", note)
    run()
    out = str(tmp_path / "out")
    for _, working_dir, env in seen.values():
        assert working_dir == demo.ROOT
        assert (env["CSLM_HOME"], env["MLFLOW_TRACKING_URI"]) == (out, f"sqlite:///{out}/mlflow.db")
    assert seen["corpus"][2]["PYTHONPATH"] == "platform"
    assert "PYTHONPATH" not in seen["tokenize"][2]


def test_the_second_run_starts_nothing_and_tells_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, _, first = run()
    before = (tmp_path / "out" / "summary.json").read_bytes()
    monkeypatch.setattr(demo, "LocalCluster", None)
    code, submitted, again = run()
    assert (code, submitted) == (0, [])
    assert "all 8 steps finished before, nothing to do" in again
    assert first.partition("what was done")[2].split("this run took")[0] in again
    assert (tmp_path / "out" / "summary.json").read_bytes() == before


def test_a_failed_step_ends_the_demo_with_its_exit_code_and_the_next_run_goes_on_there(
    run: Run, cluster: type[FakeCluster], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "behave", lambda name: 2 if name == "pretrain" else 0)
    code, submitted, said = run()
    assert (code, submitted) == (2, ["corpus", "fit_tokenizer", "tokenize", "align", "pretrain"])
    assert "pretrain ended with exit code 2" in said
    assert not (tmp_path / "out" / "summary.json").exists()
    monkeypatch.setattr(cluster, "behave", lambda name: 0)
    assert run()[:2] == (0, ["pretrain", "sft", "decoder", "evaluate"])


def test_other_settings_of_a_step_submit_it_and_all_behind_it(run: Run) -> None:
    run()
    storage.write_text(f"{demo.ROOT}/jobs/configs/sft/demo.yaml", "output: {path: sft}\nseed: 2\n")
    assert run()[:2] == (0, ["sft", "decoder", "evaluate"])
    assert run()[:2] == (0, [])


def test_other_code_submits_every_step(run: Run) -> None:
    run()
    storage.write_text(f"{demo.ROOT}/platform/cslm/code.py", "x = 2\n")
    assert run()[:2] == (0, STEPS)


def test_code_that_changes_while_a_step_runs_submits_it_again(
    run: Run, cluster: type[FakeCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(name: str) -> int:
        if name == "sft":
            storage.write_text(f"{demo.ROOT}/platform/cslm/code.py", "x = 3\n")
        return 0

    monkeypatch.setattr(cluster, "behave", edit)
    assert run()[:2] == (0, STEPS)
    monkeypatch.setattr(cluster, "behave", lambda name: 0)
    assert run()[:2] == (0, STEPS)
    assert run()[:2] == (0, [])


def test_lost_or_changed_results_are_noticed(run: Run, tmp_path: Path) -> None:
    run()
    storage.remove(str(tmp_path / "out" / "sft"))
    assert run()[:2] == (0, ["sft", "decoder", "evaluate"])
    summary = str(tmp_path / "out" / "tokenize" / "summary.json")
    storage.write_json(summary, storage.read_json(summary) | {"key": "of another command"})
    assert run()[:2] == (0, STEPS[2:])


def test_a_job_that_ends_well_without_results_is_a_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCluster, "submit", lambda *_, **__: 0)
    with pytest.raises(CslmError, match=r"corpus must leave a summary\.json"):
        run()


def test_every_missing_config_is_told_before_anything_starts(
    cluster: type[FakeCluster], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = demo.main(["--output.path", str(tmp_path / "out"), "--configs", "huge"])
    told = capsys.readouterr().err
    assert code == 2
    for job in ("demo_corpus", *STEPS[1:]):
        assert f"jobs/configs/{job}/huge.yaml" in told
    assert cluster.submitted == []


def test_a_second_demo_in_the_same_folder_is_refused(
    run: Run, cluster: type[FakeCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_another(name: str) -> int:
        with pytest.raises(CslmError, match="one demo at a time"):
            run()
        cluster.submitted.append("again")
        return 1

    monkeypatch.setattr(steps, "_WAIT_FOR_OTHER_S", 0.0)
    monkeypatch.setattr(cluster, "behave", start_another)
    assert run()[:2] == (1, ["again"])


def test_figures_that_a_job_did_not_give_are_dashes() -> None:
    document = demo_report.collect({"tokenize": {}, "pretrain": {"loss_last": {"total": 1.0}}}, {"tokenize": 1.0})
    out = io.StringIO()
    demo_report.show(document, Console(file=out, width=120))
    assert "- hours in, - units out" in out.getvalue()
    assert "- -> 1.000" in out.getvalue()

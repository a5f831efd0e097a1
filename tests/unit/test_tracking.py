import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run as Recorded

from cslm import storage, tracking
from cslm.errors import ConfigError
from cslm.tracking import Run, TrackingSection


@pytest.fixture(scope="module")
def store(tracking_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the MLflow store, while another one is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(storage.HOME_VARIABLE, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield Path(tracking_store.removeprefix("sqlite:///")).parent


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Run:
    return Run.open(TrackingSection(), job="tokenize", output=str(tmp_path / "units"))


def recorded(run: Run) -> Recorded:
    return MlflowClient(tracking_uri=run.uri).get_run(run.run_id)


def test_the_same_output_goes_on_as_the_same_run(run: Run, tmp_path: Path) -> None:
    run.log_metrics({"loss/total": 2.0}, step=1)
    run.finish("KILLED")
    assert recorded(run).info.status == "KILLED"
    again = Run.open(TrackingSection(), job="tokenize", output=str(tmp_path / "units"))
    assert again.run_id == run.run_id
    assert recorded(again).info.status == "RUNNING"
    again.log_metrics({"loss/total": 1.0}, step=2)
    again.finish()
    history = MlflowClient(tracking_uri=run.uri).get_metric_history(run.run_id, "loss/total")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    assert recorded(run).info.status == "FINISHED"
    other = Run.open(TrackingSection(), job="tokenize", output=str(tmp_path / "other"))
    assert other.run_id != run.run_id


def test_a_run_of_another_store_is_begun_anew(store: Path, tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "mlflow_run.json"), {"run_id": "0" * 32, "experiment": "cslm"})
    run = Run.open(TrackingSection(), job="tokenize", output=str(tmp_path))
    assert run.run_id != "0" * 32
    assert storage.read_json(str(tmp_path / "mlflow_run.json"))["run_id"] == run.run_id


def test_a_run_is_named_and_tagged_by_job_and_output(run: Run, tmp_path: Path) -> None:
    found = recorded(run)
    assert found.info.run_name == "tokenize units"
    assert found.data.tags["cslm.job"] == "tokenize"
    assert found.data.tags["cslm.output"] == str(tmp_path / "units")
    run.set_tags({"gate": "passed"})
    assert recorded(run).data.tags["gate"] == "passed"


def test_artifacts_lie_beside_the_store_and_nothing_in_the_working_directory(store: Path, run: Run) -> None:
    run.log_text("größe: 1\n", "config.yaml")
    run.log_figure(Figure(figsize=(1, 1)), "loss.png")
    folder = store / "mlartifacts" / "cslm" / run.run_id / "artifacts"
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "größe: 1\n"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir() == []


def test_params_keep_their_first_value(run: Run) -> None:
    many = {f"data.weights.{number}": number for number in range(250)}
    run.log_params(many | {"train.lr": 0.1})
    run.log_params({"train.lr": 0.2, "train.seed": 7, "long": "x" * 10_000})
    params = recorded(run).data.params
    assert (params["train.lr"], params["train.seed"], params["data.weights.249"]) == ("0.1", "7", "249")
    assert set(params["long"]) == {"x"}


def test_metrics_of_many_steps_are_written_and_the_last_step_is_known(run: Run) -> None:
    assert run.last_step("loss/total") == -1
    run.log_metric_rows([(step, {"loss/total": 1 / step, "loss/asr/en": 2.0}) for step in range(1, 701)])
    assert run.last_step("loss/total") == 700
    assert len(MlflowClient(tracking_uri=run.uri).get_metric_history(run.run_id, "loss/asr/en")) == 700
    assert recorded(run).data.metrics["loss/total"] == pytest.approx(1 / 700)


def test_another_process_writes_to_the_run_by_its_handle(run: Run) -> None:
    Run.attach(run.handle).log_metrics({"throughput/tokens_per_s": 9.0}, step=3)
    assert recorded(run).data.metrics == {"throughput/tokens_per_s": 9.0}


def test_an_input_table_is_recorded_with_its_place_schema_and_size(run: Run) -> None:
    schema = pa.schema([("id", pa.string())])
    run.log_input_table("/corpus/units", "units", schema=schema, num_rows=12, digest="d" * 64)
    (entry,) = recorded(run).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.source) == ("units", '{"uri": "/corpus/units"}')
    assert entry.dataset.schema == '{"id": "string"}'
    assert entry.dataset.profile == '{"num_rows": 12}'
    assert entry.dataset.digest == "d" * 36


def test_weights_are_recorded_once_as_a_logged_model_with_their_loss(run: Run) -> None:
    client = MlflowClient(tracking_uri=run.uri)
    uri = "s3://bucket/checkpoints/step-00000004"
    loss = {"checkpoint/eval_loss": 2.5}
    first = run.log_model("step-4", uri, step=4, metrics=loss, tags={"cslm.kind": "checkpoint"})
    assert run.log_model("step-4", uri, step=4, metrics=loss) == first
    model = client.get_logged_model(first)
    assert (model.name, model.source_run_id, model.tags["cslm.uri"]) == ("step-4", run.run_id, uri)
    assert [(metric.key, metric.value, metric.step) for metric in model.metrics] == [("checkpoint/eval_loss", 2.5, 4)]
    assert model.status == "READY"
    assert [one.model_id for one in recorded(run).outputs.model_outputs] == [first]


def test_the_machine_is_watched_without_a_run_of_the_whole_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    with run.system_metrics():
        deadline_s = time.monotonic() + 60
        while "system/cpu_utilization_percentage" not in recorded(run).data.metrics:
            assert time.monotonic() < deadline_s
    assert mlflow.active_run() is None


def test_the_store_is_named_by_the_environment_or_lies_in_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(storage.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///below/mlflow.db")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/below/mlflow.db"
    for uri in ("sqlite:////data/mlflow.db", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracking.tracking_uri() == uri


def test_a_store_in_an_object_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.HOME_VARIABLE, "s3://bucket/results")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        tracking.tracking_uri()


def test_a_run_may_be_a_part_of_another(run: Run, tmp_path: Path) -> None:
    part = Run.open(TrackingSection(parent_run=run.run_id), job="sft", output=str(tmp_path / "sft"))
    found = MlflowClient(tracking_uri=run.uri).search_runs(
        [recorded(run).info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    )
    assert [one.info.run_id for one in found] == [part.run_id]


def test_versions_are_promoted_in_order_and_taken_back_one_by_one(store: Path, tmp_path: Path) -> None:
    registry = tracking.Registry(f"model-{tmp_path.name}")
    assert registry.champion() is None
    with pytest.raises(ConfigError, match="must have a previous version"):
        registry.rollback()
    for number in range(1, 4):
        now = registry.champion()
        run = Run.open(TrackingSection(), job="retrain", output=str(tmp_path / str(number)))
        tags = {"cslm.parent_version": now.number} if now else {}
        version = registry.register(f"s3://bucket/{number}/model", run_id=run.run_id, tags=tags)
        assert registry.champion() == now  # nothing moves before it is promoted
        assert registry.register("elsewhere", run_id=run.run_id, tags={}) == version
        registry.promote(version)
        registry.promote(version)
        assert registry.champion() == version
        assert registry.previous() == now
        assert version.uri == f"s3://bucket/{number}/model"
    for taken, champion, previous in (("3", "2", "1"), ("2", "1", None)):
        back, now = registry.rollback()
        assert (back.number, now.number) == (taken, champion)
        before = registry.previous()
        assert (before and before.number) == previous
    with pytest.raises(ConfigError, match="must have a previous version"):
        registry.rollback()


def test_a_promotion_that_was_cut_off_before_its_last_write_is_finished(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tracking.Registry(f"model-{tmp_path.name}")
    versions = []
    for number in range(2):
        run = Run.open(TrackingSection(), job="retrain", output=str(tmp_path / str(number)))
        versions.append(registry.register(f"s3://bucket/{number}", run_id=run.run_id, tags={}))
    registry.promote(versions[0])
    move = registry._client.set_registered_model_alias

    def cut_off(name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KeyboardInterrupt
        move(name, alias, version)

    monkeypatch.setattr(registry._client, "set_registered_model_alias", cut_off)
    with pytest.raises(KeyboardInterrupt):
        registry.promote(versions[1])
    assert registry.champion() == versions[0]
    again = tracking.Registry(registry.name)
    again.promote(versions[1])
    assert (again.champion(), again.previous()) == (versions[1], versions[0])

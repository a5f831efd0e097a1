"""Experiment tracking: one MLflow run per job output, the same one after every restart.

The only module that imports mlflow. The run's id is kept beside the job's output, so that an interrupted job goes on
as the same run. Values are written with `MlflowClient`, which holds no global state and works from any worker.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from cslm import storage
from cslm.config import Section, setting
from cslm.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

_PARAM_LIMIT = 6000
_BATCH_LIMIT = 1000
_CHAMPION, _PREVIOUS = "champion", "previous"


class TrackingSection(Section):
    """Where runs are recorded. The store itself is named by the environment variable MLFLOW_TRACKING_URI."""

    experiment: str = setting("cslm", "MLflow experiment that the run belongs to")
    run_name: str | None = setting(None, "name of the run; the job and its output folder by default")
    parent_run: str | None = setting(
        None, "id of the run that this one is a part of, under which it is shown; none by default"
    )


def tracking_uri() -> str:
    """The MLflow store: `MLFLOW_TRACKING_URI`, or `mlflow.db` in `CSLM_HOME` or the working directory."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http") and urlsplit(uri).password is not None:
        # The address goes to every worker and is shown on Ray's pages.
        raise ConfigError(
            "MLFLOW_TRACKING_URI: must hold no password, found one; give it in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to the nodes"
        )
    if uri:
        if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
            return "sqlite:///" + storage.absolute(uri.removeprefix("sqlite:///"))
        return uri
    database = storage.absolute("mlflow.db")
    if storage.is_uri(database):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: must be set when {storage.HOME_VARIABLE} is a URI ({database}): "
            "a database cannot live in an object store"
        )
    return f"sqlite:///{database}"


class Run:
    """An open MLflow run. Metrics with the same names and steps as before an interruption overwrite nothing else."""

    def __init__(self, client: "MlflowClient", run_id: str, uri: str) -> None:
        self._client = client
        self.run_id = run_id
        self.uri = uri

    @classmethod
    def open(cls, section: TrackingSection, *, job: str, output: str, tags: Mapping[str, str] | None = None) -> "Run":
        """Go on with the run whose id lies in `output`, or begin one."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = tracking_uri()
        client = MlflowClient(tracking_uri=uri)
        record = storage.join(output, "mlflow_run.json")
        if storage.exists(record):
            known = storage.read_json(record)
            try:
                client.get_run(known["run_id"])
            except MlflowException:
                pass  # recorded in another store: begin a run in this one
            else:
                client.update_run(known["run_id"], status="RUNNING")
                return cls(client, known["run_id"], uri)
        experiment_id = _experiment(client, section.experiment, uri)
        name = section.run_name or f"{job} {storage.name(output)}"
        told = {"cslm.job": job, "cslm.output": output, **(tags or {})}
        if section.parent_run:
            told["mlflow.parentRunId"] = section.parent_run
        created = client.create_run(experiment_id, run_name=name, tags=told)
        storage.write_json(record, {"run_id": created.info.run_id, "experiment": section.experiment})
        return cls(client, created.info.run_id, uri)

    @classmethod
    def attach(cls, handle: Mapping[str, str]) -> "Run":
        """Open a run by the `handle` of the same run in another process."""
        from mlflow import MlflowClient

        return cls(MlflowClient(tracking_uri=handle["uri"]), handle["run_id"], handle["uri"])

    @property
    def handle(self) -> dict[str, str]:
        """What another process needs to write to this run."""
        return {"run_id": self.run_id, "uri": self.uri}

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; those recorded before keep their first value."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:_PARAM_LIMIT]) for key, value in params.items() if key not in known]
        for start in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics of one step."""
        self.log_metric_rows([(step, metrics)])

    def log_metric_rows(self, rows: list[tuple[int, Mapping[str, float]]]) -> None:
        """Record metrics of many steps in few requests."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        flat = [Metric(key, float(value), now, step) for step, metrics in rows for key, value in metrics.items()]
        for start in range(0, len(flat), _BATCH_LIMIT):
            self._client.log_batch(self.run_id, metrics=flat[start : start + _BATCH_LIMIT])

    def last_step(self, metric: str) -> int:
        """The greatest step recorded of `metric`, -1 when there is none."""
        return max((point.step for point in self._client.get_metric_history(self.run_id, metric)), default=-1)

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Steps and values recorded of `metric`, by step."""
        points = self._client.get_metric_history(self.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def log_text(self, text: str, artifact: str) -> None:
        """Keep a text file with the run."""
        self._client.log_text(self.run_id, text, artifact)

    def log_figure(self, figure: "Figure", artifact: str) -> None:
        """Keep a picture with the run. Letters that no font of this machine has are boxes in it, without a warning."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self._client.log_figure(self.run_id, figure, artifact)

    def log_input_table(self, uri: str, name: str, *, schema: pa.Schema, num_rows: int | None, digest: str) -> None:
        """Record a table as an input of the run (data lineage); `num_rows` where they are known."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = Dataset(
            name=name,
            digest=digest[:36],
            source_type="s3" if uri.startswith("s3://") else "local",
            source=json.dumps({"uri": uri}),
            schema=json.dumps({field.name: str(field.type) for field in schema}),
            profile=None if num_rows is None else json.dumps({"num_rows": num_rows}),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", name)])])

    def log_model(
        self, name: str, uri: str, *, step: int, metrics: Mapping[str, float], tags: Mapping[str, str] | None = None
    ) -> str:
        """Record weights that lie at `uri` as a logged model of this run, once a name; nothing is uploaded.

        `metrics` are those of the model, and stand in the run under the same names. Returns the model's id.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        experiment_id = self._client.get_run(self.run_id).info.experiment_id
        known = self._client.search_logged_models(
            [experiment_id], filter_string=f"source_run_id = '{self.run_id}' AND name = '{name}'"
        )
        if known:
            return str(known[0].model_id)
        marks = {**(tags or {}), "cslm.uri": uri, "cslm.step": str(step)}
        model = self._client.create_logged_model(experiment_id, name, self.run_id, tags=marks)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        now = int(time.time() * 1000)
        points = [
            Metric(key, float(value), now, step, model_id=model.model_id, run_id=self.run_id)
            for key, value in metrics.items()
        ]
        if points:
            self._client.log_batch(self.run_id, metrics=points)
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Record how busy this machine is, as metrics `system/...`, as long as the block lasts."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # It says on every start and end that it started and ended.
        logging.getLogger("mlflow.system_metrics.system_metrics_monitor").setLevel(logging.WARNING)
        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.run_id, status=status)


@dataclass(frozen=True)
class Version:
    """A version of a registered model: its number, where the weights lie, and its tags."""

    number: str
    uri: str
    tags: dict[str, str]


class Registry:
    """The registered model of a name: `champion` is the version in use, `previous` the one before it."""

    def __init__(self, name: str) -> None:
        from mlflow import MlflowClient

        self.name = name
        self._client: MlflowClient = MlflowClient(tracking_uri=tracking_uri())

    def champion(self) -> Version | None:
        """The version in use, None before the first."""
        return self._at(_CHAMPION)

    def previous(self) -> Version | None:
        """The version that the champion took the place of."""
        return self._at(_PREVIOUS)

    def register(self, uri: str, *, run_id: str, tags: Mapping[str, str]) -> Version:
        """Make a version of the weights at `uri`, once a run; nothing is uploaded and no alias moves."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException:
            # It is there already; anything else is told by the next request.
            self._client.get_registered_model(self.name)
        known = self._client.search_model_versions(f"name = '{self.name}' AND run_id = '{run_id}'")
        if known:
            return _version(known[0])
        marks = {**tags, "cslm.uri": uri}
        return _version(self._client.create_model_version(self.name, source=uri, run_id=run_id, tags=marks))

    def promote(self, version: Version) -> None:
        """Make a version the champion and the champion until now the previous one. Again after a crash, it finishes.

        The alias `champion` moves last, in one write: who loads by it has the old model or the new one.
        """
        now = self.champion()
        if now is not None and now.number == version.number:
            return
        if now is not None:
            self._client.set_registered_model_alias(self.name, _PREVIOUS, now.number)
        self._client.set_registered_model_alias(self.name, _CHAMPION, version.number)

    def rollback(self) -> tuple[Version, Version]:
        """Make the previous version the champion again; gives the version that was taken back and the new champion.

        Its own predecessor, by the tag `cslm.parent_version`, becomes the previous one, so that one can go back again.
        Raises ConfigError when there is no version to go back to.
        """
        now, before = self.champion(), self.previous()
        if now is None or before is None or now.number == before.number:
            raise ConfigError(
                f"rollback: the registered model {self.name} must have a previous version to go back to, found none"
            )
        self._client.set_model_version_tag(self.name, now.number, "cslm.taken_back", "true")
        self._client.set_registered_model_alias(self.name, _CHAMPION, before.number)
        if parent := before.tags.get("cslm.parent_version"):
            self._client.set_registered_model_alias(self.name, _PREVIOUS, parent)
        else:
            self._client.delete_registered_model_alias(self.name, _PREVIOUS)
        return now, before

    def _at(self, alias: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def _version(found: Any) -> Version:
    tags = dict(found.tags)
    return Version(str(found.version), tags.get("cslm.uri", found.source), tags)


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    # Without a server MLflow would put artifacts below the working directory, which for a submitted job is Ray's copy.
    folder = storage.parent(uri.removeprefix("sqlite:///"))
    location = storage.join(folder, "mlartifacts", name) if uri.startswith("sqlite:") else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        known = client.get_experiment_by_name(name)  # another job made it meanwhile
        if known is None:
            raise
        return str(known.experiment_id)

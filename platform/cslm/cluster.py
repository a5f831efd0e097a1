"""Ray start-up: join the cluster that is there or start one on this machine, and give workers code and environment.

Workers find `cslm` because `connect` ships the package's folder with the job; they need no installed copy, and a
changed line is in the next run without building anything.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray would otherwise write a token into the home folder, and the next cluster would ask for it.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray._private import ray_constants
from ray.exceptions import RayTaskError

from cslm import storage
from cslm.config import Section, setting
from cslm.errors import ConfigError, CslmError
from cslm.storage import HOME_VARIABLE

# Workers free and ask for the same megabytes over and over. By default glibc gives them back to the system each time,
# and the page faults of having them again took a third of the time of a light tokenizer.
_ALLOCATION = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# What the autoscaler of the cluster may start; see `most_gpus`.
GPUS_VARIABLE = "CSLM_AUTOSCALED_GPUS"
# Not the credentials: nodes have their own, or get them from whoever submits the job.
_PASSED_ON = (
    *(HOME_VARIABLE, "MLFLOW_TRACKING_URI", "STORAGE_EMULATOR_HOST", "CSLM_PROMPTS"),
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS"),
)


class ClusterSection(Section):
    """Which Ray cluster does the work."""

    address: str | None = setting(None, "Ray address; the submitted job's cluster, or a local one, when not given")
    num_cpus: int | None = setting(
        None, "logical CPUs of a cluster started here; the machine's cores, at least 4, when not given", ge=1
    )


def package_folder() -> Path:
    """The folder of the `cslm` package that is running."""
    return Path(__file__).parent


def connect(section: ClusterSection) -> None:
    """Join or start the cluster; nothing happens when this process already is on one."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {
        "runtime_env": runtime_env(),
        "log_to_driver": True,
        "configure_logging": True,
        "logging_level": "warning",
    }
    address = section.address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, **options)
    else:
        # With fewer logical CPUs than stages, reading, computing and writing could not run side by side.
        num_cpus = section.num_cpus or max(os.cpu_count() or 1, 4)
        with _loopback_only():
            ray.init(address="local", num_cpus=num_cpus, _node_ip_address="127.0.0.1", **options)
    _quiet_ray_data()


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Have the Ray that is started within listen where nobody else is let in: on the loopback interface."""
    # Despite its name this is what makes Ray keep to it on every system; Ray reads it when it is imported.
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def has_gpus() -> bool:
    """Whether any node of the cluster has a GPU, or its autoscaler may start one that has."""
    return most_gpus() > 0


def num_gpus() -> float:
    """GPUs of all nodes that the cluster has now."""
    return resources_here("GPU")


def most_gpus(accelerator: str | None = None) -> float:
    """GPUs of a type, or of any, that the cluster has or may come to have.

    Ray does not tell what an autoscaler may start: whoever defines a cluster says it in CSLM_AUTOSCALED_GPUS, as in
    `L4:16,H100:32`, and a job finds it on the head. Raises ConfigError where that reads otherwise.
    """
    here = resources_here("GPU", accelerator)
    told = os.environ.get(GPUS_VARIABLE, "")
    if not re.fullmatch(r"(\w[\w-]*:\d+(,\w[\w-]*:\d+)*)?", told):
        raise ConfigError(f"{GPUS_VARIABLE}: must be types and numbers of GPUs as in L4:16,H100:32, found {told!r}")
    may_start = dict(part.split(":") for part in told.split(",") if part)
    return max(here, sum(int(count) for kind, count in may_start.items() if accelerator in (None, kind)))


def resources_here(kind: str, accelerator: str | None = None) -> float:
    """GPUs or CPUs of the nodes that are there, of those with a type of GPU where one is named, whoever holds them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return float(sum(node.get(kind, 0) for node in alive if of_type(accelerator).keys() <= node.keys()))


def of_type(accelerator: str | None) -> dict[str, float]:
    """What to ask of Ray beside GPUs, so that they are of a type; nothing for any."""
    return {f"accelerator_type:{accelerator}": 0.001} if accelerator else {}


def joining() -> dict[str, str]:
    """What another process of this machine needs in its environment to join the cluster that this one is on."""
    address = str(ray.get_runtime_context().gcs_address)
    # Without the second it would look for a cluster that keeps to the loopback interface where the network is.
    is_loopback = address.rpartition(":")[0] in ("127.0.0.1", "localhost", "::1", "[::1]")
    return {"RAY_ADDRESS": address} | ({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"} if is_loopback else {})


def _quiet_ray_data() -> None:
    """Leave progress to the jobs, which know what a unit of their work is."""
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def runtime_env() -> dict[str, Any]:
    """Code and environment that every worker of a job gets."""
    wanted = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **_ALLOCATION}
    wanted |= {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    # The submitter's own variables win; naming one twice is an error in Ray.
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    given = submitted.get("env_vars", {})
    variables = {key: value for key, value in wanted.items() if key not in given}
    return {"py_modules": [str(package_folder())], "env_vars": variables}


@contextmanager
def workers_faults() -> Iterator[None]:
    """Tell what failed in a worker as if it had failed here: our own errors as they are, storage in one sentence."""
    try:
        yield
    except RayTaskError as error:
        cause = _root_cause(error)
        if isinstance(cause, CslmError):
            raise cause from None
        if isinstance(cause, OSError):
            raise storage.fault(cause) from error
        raise


def _root_cause(error: BaseException) -> BaseException | None:
    """The innermost error of ours or of the storage; Ray wraps it in errors that are of its class too."""
    found: BaseException | None = None
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, CslmError | OSError) and not isinstance(at, RayTaskError):
            found = at
        at = at.cause if isinstance(at, RayTaskError) else at.__cause__
    return found

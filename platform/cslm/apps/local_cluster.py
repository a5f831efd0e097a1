"""A private Ray cluster on this machine for as long as a `with` block lasts, and jobs submitted to it.

Everything listens on the loopback interface, on ports that were free, with a temporary folder of its own, so that any
number of clusters can stand side by side; and it answers only those who have the cluster's token, which lies in that
folder: others who work on this machine do not. A keeper process holds the cluster: it goes when the block ends, and
also when this process is killed. `ray stop` is never used, because it ends every Ray of the machine.
"""

import contextlib
import importlib
import itertools
import json
import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cslm import storage
from cslm.apps import keeper
from cslm.errors import CslmError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 40.0
_LOOK_EVERY_S = 0.4
_LOOKS_FOR_OUTPUT = 4  # the whole output is sent each time
_PATIENCE_S = 180.0
_SUBMISSIONS = 3
_CUT_OFF = ("ConnectionError", "ConnectionResetError", "RemoteDisconnected", "Timeout")
_OBJECT_STORE_BYTES = 1 << 30
# Longer and the sockets below it do not fit into the 107 characters that a UNIX socket's path may have.
_LONGEST_TEMPORARY_FOLDER = 40
# Ray gives these to its workers; the cluster's own ports lie below them.
_FIRST_WORKER_PORT, _LAST_WORKER_PORT = 20000, 29999
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LocalCluster:
    """A Ray head node on this machine that takes jobs; use it as a context manager.

    `num_cpus` are logical CPUs: with fewer than stages, reading, computing and writing could not run side by side.
    """

    def __init__(self, num_cpus: int | None = None, object_store_bytes: int = _OBJECT_STORE_BYTES) -> None:
        self.num_cpus = num_cpus or max(os.cpu_count() or 1, 4)
        self._object_store_bytes = object_store_bytes
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=40)
        self._folder = self._token = ""
        self.address = ""

    def __enter__(self) -> "LocalCluster":
        gcs, dashboard, agent, client = _free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        self._folder = _temporary_folder()
        self._token = secrets.token_hex(32)
        # The folder is ours alone, so nobody else reads it.
        storage.write_text(self._token_path, self._token)
        command = [
            *(sys.executable, "-P", keeper.__file__, self._folder),
            *(_venv_program("ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"),
            f"--dashboard-agent-listen-port={agent}",
            *(f"--min-worker-port={_FIRST_WORKER_PORT}", f"--max-worker-port={_LAST_WORKER_PORT}"),
            *(f"--num-cpus={self.num_cpus}", f"--object-store-memory={self._object_store_bytes}"),
            f"--temp-dir={self._folder}",
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the keeper that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Processes of the cluster that ask for "the" cluster must find this one when there are others.
            env=self._environment() | {"RAY_ADDRESS": f"127.0.0.1:{gcs}"},
            start_new_session=True,  # Ctrl-C is for us; we then stop the cluster
        )
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        threading.Thread(target=importlib.import_module, args=("ray.job_submission",), daemon=True).start()
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process of the cluster and its jobs."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(_STOP_TIMEOUT_S)

    def submit(
        self,
        name: str,
        entrypoint: Sequence[str],
        *,
        working_dir: str,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> int:
        """Submit a job as `ray job submit` does, pass its output to `say` line by line, and return its exit code.

        `entrypoint` runs in the cluster's copy of `working_dir`, with the variables of `env`.

        It goes by the client that the command uses: the command itself imports all of Ray for each job. Output and
        state come from the cluster's REST interface, as the command's own waiting tells about the end of a job up to
        five seconds late and turns every exit code into 1.
        """
        job = f"{name}-{uuid.uuid4().hex[:8]}"
        self._hand_over(job, entrypoint, {"working_dir": working_dir, "env_vars": dict(env)})
        told = 0
        for look in itertools.count():
            info = self._get(f"/api/jobs/{job}")
            ended = info["status"] in _ENDED
            if ended or look % _LOOKS_FOR_OUTPUT == 0:
                # Fetched after the state, so that an ended job's output is whole.
                text = self._get(f"/api/jobs/{job}/logs")["logs"] or ""
                whole = len(text) if ended else text.rfind("\n") + 1
                for line in text[told:whole].splitlines():
                    say(line)
                told = max(told, whole)
            if ended:
                break
            time.sleep(_LOOK_EVERY_S)
        code = info.get("driver_exit_code")
        if code is None:
            say(f"the job ended as {info['status']}: {info.get('message')}")
            return 1
        return int(code)

    def _hand_over(self, job: str, entrypoint: Sequence[str], runtime_env: dict[str, Any]) -> None:
        """Submit a job until the cluster has it, which it may have though it did not say so.

        A busy cluster closes connections that it does not come to in time.
        """
        for attempt in range(1, _SUBMISSIONS + 1):
            try:
                self._client().submit_job(entrypoint=shlex.join(entrypoint), submission_id=job, runtime_env=runtime_env)
                return
            except (RuntimeError, ValueError, OSError) as error:  # what requests raises is an OSError
                if job in {one.get("submission_id") for one in self._get("/api/jobs/")}:
                    return
                told = f"{type(error).__name__}: {error}"
                if attempt == _SUBMISSIONS or not any(sign in told for sign in _CUT_OFF):
                    raise CslmError(
                        f"{shlex.join(entrypoint)} must be taken by the cluster, which said:\n{told}"
                    ) from error

    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient  # not before the cluster is starting, beside which it loads

        # It tells each package that it uploads.
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(self.address, headers=self._headers)

    def _get(self, path: str, patience_s: float = _PATIENCE_S) -> Any:
        """What the cluster answers; one that is alive but too busy to answer is asked again."""
        give_up_s = time.monotonic() + patience_s
        while True:
            try:
                with _NO_PROXY.open(self._request(path), timeout=30) as answer:
                    return json.loads(answer.read())
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                alive = self._process is not None and self._process.poll() is None
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or not alive or time.monotonic() > give_up_s:
                    raise CslmError(
                        f"the local Ray cluster must answer at {self.address}{path}, found: {error}"
                    ) from error
                time.sleep(_LOOK_EVERY_S)

    def _request(self, path: str) -> urllib.request.Request:
        return urllib.request.Request(self.address + path, headers=self._headers)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    @property
    def _token_path(self) -> str:
        return str(Path(self._folder) / "token")

    def _environment(self) -> dict[str, str]:
        return _environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self._token_path}

    def _wait_until_ready(self, process: "subprocess.Popen[str]") -> None:
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < give_up_s:
            with contextlib.suppress(CslmError):
                self._get("/api/jobs/", patience_s=_LOOK_EVERY_S)
                return
        what = "did not answer in time" if process.poll() is None else "ended while starting"
        raise CslmError(f"the local Ray cluster {what}; it said:\n" + "\n".join(self._said))

    def _listen(self, stream: Any) -> None:
        for line in stream:
            self._said.append(line.rstrip())


def _environment() -> dict[str, str]:
    """The environment of the cluster and its jobs."""
    # Another cluster's address would lead the jobs away from this one; and they find the code as on any cluster.
    foreign = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "PYTHONPATH")
    mine = {key: value for key, value in os.environ.items() if key not in foreign}
    return mine | {
        # A job's shebang must find the Python that runs us.
        "PATH": os.pathsep.join([str(_programs()), mine.get("PATH", os.defpath)]),
        # Despite its name this is what makes Ray keep to the loopback interface on every system.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _programs() -> Path:
    return Path(sys.executable).parent  # not resolved: a venv's python is a link


def _venv_program(name: str) -> str:
    return str(_programs() / name)


def _temporary_folder() -> str:
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="cslm-ray-", dir=base if len(base) <= _LONGEST_TEMPORARY_FOLDER else "/tmp")


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, outside of those that Ray gives to workers."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if not _FIRST_WORKER_PORT <= port <= _LAST_WORKER_PORT:
                found.append(port)
    return found

"""MLflow's server as Kubernetes and as a head starts it: behind names and passwords, artifacts in an object store.

Its runs lie in PostgreSQL where this machine has one, in SQLite otherwise.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from cslm.tracking import Run, TrackingSection
from tests.data import object_store

ROOT = Path(__file__).parents[2]
PASSWORD = "of-this-test-alone"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def database(tmp_path):
    """A database of PostgreSQL, which refuses to run as root; a file where there is none."""
    programs = shutil.which("postgres")
    if programs is None:
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    bin_folder = Path(programs).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="cslm-pg-", dir="/tmp"))
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if as_user:
        os.chown(folder, 65534, 65534)
    port = free_port()
    initialise = [*as_user, bin_folder / "initdb", "-D", folder / "data", "-U", "mlflow", "--auth=trust", "-E", "UTF8"]
    subprocess.run([*map(str, initialise)], check=True, capture_output=True, cwd="/")
    serve = [*as_user, bin_folder / "postgres", "-D", folder / "data", "-p", port, "-k", folder, "-h", "127.0.0.1"]
    serving = subprocess.Popen([*map(str, serve)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    ready = [str(bin_folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, capture_output=True, check=False).returncode:
        assert serving.poll() is None
        time.sleep(0.1)
    make = [str(bin_folder / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
    subprocess.run(make, check=True, capture_output=True)
    yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
    serving.terminate()
    serving.wait()
    shutil.rmtree(folder, ignore_errors=True)


def manifest():
    """The server's container in the manifest."""
    for document in yaml.safe_load_all((ROOT / "cluster" / "kubernetes" / "mlflow.yaml").read_text()):
        if document["kind"] == "Deployment":
            return document["spec"]["template"]["spec"]["containers"][0]
    raise AssertionError


def auth_file(database):
    """The file that secrets.sh makes."""
    script = (ROOT / "cluster" / "kubernetes" / "secrets.sh").read_text()
    (lines,) = re.findall(r"  auth.ini: \|\n((?:    .*\n)+)", script)
    return re.sub(r"^    ", "", lines, flags=re.MULTILINE).replace("$database_uri", database)


def on_kubernetes(home, database, port):
    """The container's command line and environment, with the address of this machine."""
    (home / "auth.ini").write_text(auth_file(database))
    arguments = [
        argument.replace("0.0.0.0", "127.0.0.1")
        .replace("--port=5000", f"--port={port}")
        .replace("--workers=2", "--workers=1")
        .replace("localhost:5000", f"localhost:{port}")
        .replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        .replace("$(MLFLOW_ARTIFACTS)", f"s3://{object_store.BUCKET}/cslm/mlflow")
        for argument in manifest()["args"]
    ]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "cookies",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
    }
    return [str(Path(sys.executable).parent / "mlflow"), "server", *arguments], environment


def on_a_head(home, database, port):
    """The script that a head runs, beside what fetch_token.py left there."""
    (home / ".mlflow").mkdir()
    login = f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {PASSWORD}\n"
    (home / ".mlflow" / "credentials").write_text(login)
    (home / ".cslm_home").write_text(f"s3://{object_store.BUCKET}/cslm")
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_BACKEND_STORE_URI": database,
    }
    return ["bash", str(ROOT / "cluster" / "serve_mlflow.sh")], environment


@pytest.fixture(params=[on_kubernetes, on_a_head], ids=["kubernetes", "head"])
def server(request, tmp_path, database):
    """Address of the server, the object store that its artifacts lie in, and its log."""
    port = free_port()
    with ExitStack() as stack:
        store = stack.enter_context(object_store.running())
        command, environment = request.param(tmp_path, database, port)
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        log = stack.enter_context((tmp_path / "log").open("w"))
        serving = subprocess.Popen(
            command, env=inherited | environment, stdout=log, stderr=log, process_group=0, cwd=tmp_path
        )
        address = f"http://127.0.0.1:{port}"
        while status(f"{address}/health") != 200:
            assert serving.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.5)
        try:
            yield address, store, tmp_path / "log"
        finally:
            os.killpg(serving.pid, 15)
            serving.wait()


def status(url, user=None, host=None):
    headers = {} if host is None else {"Host": host}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def test_runs_are_kept_behind_a_password_and_artifacts_in_the_store(server, tmp_path, monkeypatch):
    address, store, log = server
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=5"
    assert status(search) == 401
    assert status(search, user=("admin", "password1234")) == 401
    assert status(search, user=("admin", PASSWORD)) == 200
    assert status(search, user=("admin", PASSWORD), host="elsewhere.example") == 403
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    run = Run.open(TrackingSection(), job="tokenize", output=str(tmp_path / "out"))
    run.log_params({"tokenizer.kind": "kmeans"})
    run.log_metrics({"loss/total": 1.0}, step=3)
    run.log_text("a: 1\n", "config.yaml")
    run.finish()
    assert run.last_step("loss/total") == 3
    # The store keeps what an earlier server of this process wrote.
    (key,) = [one for one in store.keys("cslm/mlflow/") if one.endswith(f"{run.run_id}/artifacts/config.yaml")]
    assert store.client.get_object(Bucket=object_store.BUCKET, Key=key)["Body"].read() == b"a: 1\n"
    assert PASSWORD not in log.read_text()

"""A real Ray head on loopback, jobs through the real `ray job submit`, and nothing left of it however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cslm.apps.local_cluster import LocalCluster
from cslm.errors import CslmError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(num_cpus=4) as started:
        yield started


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(
        textwrap.dedent("""\
            #!/usr/bin/env -S python -P
            import os, sys
            import ray

            ray.init(log_to_driver=False)

            @ray.remote
            def where():
                return os.environ["RESULTS"]

            print(sys.executable, ray.get(where.remote()), os.getcwd())
            print(ray.nodes()[0]["NodeManagerAddress"], ray.cluster_resources()["CPU"])
            sys.exit(int(sys.argv[1]))
        """)
    )
    (tmp_path / "job.py").chmod(0o755)
    return tmp_path


def test_a_job_runs_in_the_clusters_copy_and_its_output_and_exit_code_come_back(
    cluster: LocalCluster, jobs: Path
) -> None:
    said: list[str] = []
    code = cluster.submit("job", ["./job.py", "3"], working_dir=str(jobs), env={"RESULTS": "/here"}, say=said.append)
    assert code == 3
    executable, results, folder = next(line for line in said if "/here" in line).split()
    assert executable == sys.executable
    assert results == "/here"
    assert "runtime_resources/working_dir_files" in folder
    assert "127.0.0.1 4.0" in said


def test_a_job_that_cannot_be_submitted_says_why(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(CslmError, match=r"(?s)must be taken by the cluster.*nowhere"):
        cluster.submit("job", ["true"], working_dir=str(tmp_path / "nowhere"), env={}, say=print)


def test_everything_of_the_cluster_listens_on_loopback_only(cluster: LocalCluster) -> None:
    assert cluster._process is not None
    listening = []
    for process in psutil.Process(cluster._process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            open_now = process.net_connections("tcp")
            listening += [one.laddr.ip for one in open_now if one.status == psutil.CONN_LISTEN]
    assert len(listening) > 5
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_ray_that_a_job_starts_by_itself_listens_on_loopback_only_and_is_found_there() -> None:
    program = textwrap.dedent("""\
        import contextlib, os, subprocess, sys
        import psutil
        import ray
        from cslm import cluster

        cluster.connect(cluster.ClusterSection(num_cpus=3))
        ray.get(ray.remote(lambda: 1).remote())
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in process.net_connections("tcp"):
                    if one.status == psutil.CONN_LISTEN:
                        print("listens:", one.laddr.ip)
        join = "import ray; from cslm import cluster; cluster.connect(cluster.ClusterSection());"
        join += "print('joined:', ray.cluster_resources()['CPU'])"
        joining = os.environ | cluster.joining()
        subprocess.run([sys.executable, "-c", join], env=joining, check=True, timeout=60)
        """)
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    own["PYTHONPATH"] = str(ROOT / "platform")
    done = subprocess.run([sys.executable, "-c", program], env=own, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    listening = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("listens:")}
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert "joined: 3.0" in done.stdout


def submitted(cluster: LocalCluster, jobs: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The outcome of `ray job submit` as somebody else on this machine types it."""
    command = [
        *(str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", cluster.address, "--no-wait"),
        *("--submission-id", "foreign", "--working-dir", str(jobs), "--", "touch", str(jobs / "ran")),
    ]
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        command, env=own | {"HOME": str(jobs), **environment}, text=True, capture_output=True, check=False
    )


def test_a_job_without_the_token_is_refused(cluster: LocalCluster, jobs: Path) -> None:
    for path in ("/api/jobs/", "/api/version", "/nodes?view=summary", "/logs"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(cluster.address + path, timeout=30)
        assert refused.value.code == 401, path
    (jobs / "wrong").write_text("0" * 64)
    for environment in (
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(jobs / "wrong")},
    ):
        done = submitted(cluster, jobs, **environment)
        assert done.returncode != 0
        assert "authentication" in (done.stdout + done.stderr).lower()
    assert not (jobs / "ran").exists()
    assert "foreign" not in {job["submission_id"] for job in cluster._get("/api/jobs/")}


def test_nothing_is_left_of_a_cluster_whose_owner_is_killed_in_the_middle_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("import time\nprint('working', flush=True)\ntime.sleep(600)\n")
    owner_code = textwrap.dedent("""
        import sys
        from cslm.apps.local_cluster import LocalCluster

        with LocalCluster() as cluster:
            print(cluster._process.pid, cluster._folder, flush=True)
            say = lambda line: print(line, flush=True)
            cluster.submit("long", ["python", "long.py"], working_dir=sys.argv[1], env={}, say=say)
    """)
    owner = subprocess.Popen(
        [sys.executable, "-c", owner_code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
    )
    assert owner.stdout is not None
    keeper, folder = owner.stdout.readline().split()
    assert "working" in iter(lambda: owner.stdout.readline().strip(), None)  # type: ignore[union-attr]
    tree = [psutil.Process(int(keeper)), *psutil.Process(int(keeper)).children(recursive=True)]
    assert any("long.py" in one.cmdline() for one in tree)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _, alive = psutil.wait_procs(tree, timeout=60)
    assert alive == []
    give_up_s = time.monotonic() + 30
    while Path(folder).exists() and time.monotonic() < give_up_s:
        time.sleep(0.1)
    assert not Path(folder).exists()

"""The actor pool on a cluster that begins without a GPU: its autoscaler starts nodes as the job asks for them.

The nodes are processes of this machine and their GPUs are numbers; scheduling and autoscaling are Ray's own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from cslm import storage
from tests.data import sounds

ROOT = Path(__file__).parents[2]
HEAD = "f" * 51 + "00000"
NO_COMMANDS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
JOB = """
import sys, threading, time
import ray
from cslm.apps import tokenize

most = 0

def watch():
    global most
    while True:
        if ray.is_initialized():
            nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
            most = max(most, len(nodes))
        time.sleep(0.2)

threading.Thread(target=watch, daemon=True).start()
code = tokenize.main(sys.argv[1:])
print("most GPU nodes:", most)
sys.exit(code)
"""


@pytest.fixture
def cluster():
    """The address of a cluster of a head without GPUs, to which at most two nodes of one GPU may be added."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="cslm-as-", dir="/tmp")
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    worker = {"CPU": 1, "GPU": 1, "object_store_memory": 80 << 20}
    settings = {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": f"127.0.0.1:{port}",
            "launch_multiple": True,
            "head_node_id": HEAD,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{name: [] for name in NO_COMMANDS},
    }
    (Path(folder) / "autoscaling.json").write_text(json.dumps(settings))
    own = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}",
    }
    head = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=4"),
            *(f"--autoscaling-config={folder}/autoscaling.json", "--object-store-memory=200000000"),
            "--include-dashboard=false",
        ],
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield f"127.0.0.1:{port}"
    tree = [head, *psutil.Process(head.pid).children(recursive=True)]
    # Nodes that the autoscaler started are children of others; all of them name this cluster's port or folder.
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if folder in command or f"127.0.0.1:{port}" in command:
            tree.append(process)
    for process in tree:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    head.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pool_grows_from_no_gpu_to_all_that_the_autoscaler_may_start(cluster, home):
    rows = []
    for number in range(60):
        sounds.write(home / f"{number}.wav", number, 0.5)
        rows.append({"id": f"c{number}", "audio": f"{number}.wav", "language": "en"})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "corpus.manifest": "corpus.jsonl",
        "corpus.rows_per_shard": 2,
        "output.path": "out",
        "tokenizer.kind": "tests.benchmarks._waiting:WaitingTokenizer",
        "tokenizer.options.wait_s": 1.0,
        "cluster.address": cluster,
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    ended = subprocess.run(
        [sys.executable, "-c", JOB, *arguments], env=environment, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "most GPU nodes: 2" in ended.stdout
    assert storage.read_json(str(home / "out" / "summary.json"))["rows"]["accepted"] == 60

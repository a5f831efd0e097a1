"""A Ray cluster on this machine whose autoscaler starts nodes as they are asked for.

The nodes are processes and their resources numbers; scheduling and autoscaling are Ray's own.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.util import get_node_ip_address

from cslm.apps import keeper

ROOT = Path(__file__).parents[2]
# The provider knows the head by this name of its type only.
_HEAD_TYPE = "ray.head.default"
_NO_COMMANDS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)


class Worker(NamedTuple):
    """What a node of a type has (CPU, GPU, ...), and how many of them there may be."""

    resources: dict[str, float]
    most: int


class NotStarted(Exception):
    """A head that was not there in time: Ray gives it 30 s, which a busy machine may not have."""


@contextmanager
def growing(head: dict[str, float], workers: dict[str, Worker], idle_s: float = 60) -> Iterator[str]:
    """The address of a cluster of a head alone, to which its autoscaler (v2) may add workers of several types.

    `head` is what the head has. A worker that nothing ran on for `idle_s` is taken away.
    """
    with ExitStack() as stack:
        for left in (2, 1, 0):
            try:
                address = stack.enter_context(_started(head, workers, idle_s))
                break
            except NotStarted:
                if not left:
                    raise
        yield address


@contextmanager
def _started(head: dict[str, float], workers: dict[str, Worker], idle_s: float) -> Iterator[str]:
    # Started nodes take this address by themselves; a head that listens elsewhere would be another machine to them.
    address = get_node_ip_address()
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    # Sockets lie below it, whose paths must be short.
    folder = tempfile.mkdtemp(prefix="cslm-", dir="/tmp")
    settings = {
        "cluster_name": "growing",
        "max_workers": sum(worker.most for worker in workers.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": f"{address}:{port}",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": _HEAD_TYPE,
        "available_node_types": {
            _HEAD_TYPE: {"resources": head, "node_config": {}, "max_workers": 0},
            **{
                name: {
                    "resources": worker.resources | {"object_store_memory": 100 << 20},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": worker.most,
                }
                for name, worker in workers.items()
            },
        },
        **{name: [] for name in _NO_COMMANDS},
    }
    Path(folder, "autoscaling.json").write_text(json.dumps(settings))
    own = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_AUTH_MODE": "disabled",
        # The autoscaler finds the provider by it, workers the classes of tests.
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}",
    }
    command = [
        *(sys.executable, "-P", keeper.__file__, folder),
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={address}", f"--port={port}", f"--temp-dir={folder}"),
        *(f"--num-cpus={head.get('CPU', 0)}", f"--num-gpus={head.get('GPU', 0)}"),
        *(f"--autoscaling-config={folder}/autoscaling.json", f"--object-store-memory={200 << 20}"),
        "--include-dashboard=false",
    ]
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    keeping = subprocess.Popen(
        command, env=inherited | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert keeping.stdin is not None
        assert keeping.stdout is not None
        said = []
        for line in keeping.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise NotStarted("the cluster did not start: " + "".join(said))
        yield f"{address}:{port}"
    finally:
        keeping.stdin.close()
        keeping.wait()

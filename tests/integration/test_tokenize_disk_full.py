"""The disk of the output fills up while the job writes, and has room again later: nothing is lost, nothing rejected."""

import subprocess

import psutil
import pyarrow.parquet as pq
import pytest

from tests.data import tokenizing

NUM_CLIPS = 60
NUM_BROKEN = 4
DISK_BYTES = 16 << 20
PAGE_BYTES = 4096

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    # Actors that end late may still have a file of it open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("full")
    tokenizing.write_corpus(root, NUM_CLIPS, NUM_BROKEN)
    return root


@pytest.fixture(scope="module")
def undisturbed(corpus, ray_cluster, tracking_store, tmp_path_factory):
    """The output of a whole run."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        assert tokenizing.start(corpus, output, ray_cluster).wait() == 0
    return output


def room_of(*paths):
    """Bytes that files, or the files below folders, take on a file system of pages."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(-(-file.stat().st_size // PAGE_BYTES) * PAGE_BYTES for file in files)


# What there is room for, of what a run writes.
ROOMS = {
    "half of the manifest": lambda run: room_of(run / "config.yaml") + room_of(run / "manifest") // 2,
    "half of the tables": lambda run: (
        room_of(*(run / name for name in ("config.yaml", "manifest", "tokenizer", "mlflow_run.json")))
        + room_of(*(run / name for name in ("units", "rejects", "ledger"))) // 2
    ),
    "all but the last of it": lambda run: room_of(run) - PAGE_BYTES,
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_full_disk_ends_the_job_with_its_cause_and_the_same_command_finishes_when_there_is_room(
    room, disk, corpus, undisturbed, home, ray_cluster
):
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(psutil.disk_usage(disk).free - ROOMS[room](undisturbed)))
    job = tokenizing.start(corpus, disk / "out", ray_cluster, say=subprocess.PIPE)
    said, _ = job.communicate()
    assert job.returncode == 1, said
    [told] = [line for line in said.splitlines() if "storage must answer" in line]
    assert "No space left on device" in told
    assert str(disk / "out") in told
    assert "Traceback" not in said
    # What is there is whole: no table is a part of one, nothing waits beside the place where it belongs.
    names = [path.name for path in disk.rglob("*") if path.is_file()]
    assert not [name for name in names if name.startswith(".")]
    for path in disk.rglob("*.parquet"):
        pq.read_table(path)
    rejected = [pq.read_table(path) for path in disk.rglob("rejects/*.parquet")]
    assert {reason for table in rejected for reason in table.column("stage").to_pylist()} <= {"audio"}
    ballast.unlink()
    again = tokenizing.start(corpus, disk / "out", ray_cluster, say=subprocess.PIPE)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert [
        found.equals(wanted)
        for found, wanted in zip(tokenizing.tables(disk / "out"), tokenizing.tables(undisturbed), strict=True)
    ] == [True, True]

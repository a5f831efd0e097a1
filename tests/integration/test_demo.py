"""The way of the demo with real jobs on a real cluster, small: killed on its way, finished by the same command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cslm import storage

ROOT = Path(__file__).resolve().parents[2]


def start(output: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cslm.apps.demo", "--configs", "smoke", "--output.path", str(output)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "platform", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop_at(output: Path, told: str, how: signal.Signals) -> tuple[int, str]:
    """Start the demo, send it a signal as soon as it tells something; gives its exit code and output."""
    process = start(output)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if told in line:
            break
    else:
        pytest.fail(f"the demo never told {told!r}:\n{said}")
    tree = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    said += process.stdout.read()
    code = process.wait(timeout=60)
    _, alive = psutil.wait_procs(tree, timeout=60)
    assert alive == []
    return code, said


@pytest.mark.slow
def test_a_demo_that_is_killed_again_and_again_is_finished_by_the_same_command(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    assert stop_at(output, "learning from", signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = stop_at(output, "step 10/20", signal.SIGTERM)
    assert code == 130
    assert "the same command goes on from here" in said
    assert "1/8 corpus" not in said  # finished before the first kill

    process = start(output)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "3/8 tokenize" not in said
    summary = storage.read_json(str(output / "summary.json"))
    assert summary["last_run_steps"] == ["pretrain", "sft", "decoder", "evaluate"]
    assert summary["utterances"]["accepted"] == 300
    assert summary["training"]["pretrain"]["steps"] == 20
    assert {name.rpartition("/")[2] for name in summary["metrics"]} >= {"cer", "accuracy"}
    assert (output / "sft" / "model" / "config.json").is_file()

    process = start(output)
    again, _ = process.communicate()
    assert process.returncode == 0, again
    assert "all 7 steps finished before, nothing to do" in again
    assert storage.read_json(str(output / "summary.json")) == summary

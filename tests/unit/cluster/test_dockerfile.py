"""The image's definition, linted, and what the launchers need to find in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"


def lint(path: Path) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program is not None, "hadolint must be installed; it is in requirements.lock"
    return subprocess.run([program, "--no-color", str(path)], text=True, capture_output=True, check=False)


def test_the_dockerfile_has_no_faults(tmp_path: Path) -> None:
    done = lint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace("USER 1000", "USER root"))
    assert "DL3002" in lint(tmp_path / "Dockerfile").stdout


def test_the_image_holds_what_the_launchers_call() -> None:
    text = DOCKERFILE.read_text()
    # Ray's launcher goes on from the head to workers by ssh and rsync, and asks the image for its home.
    assert re.search(r"\bopenssh-client\b", text)
    assert re.search(r"\brsync\b", text)
    assert re.search(r"^ENV HOME=", text, re.MULTILINE)
    assert "uv pip sync" in text
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert not re.search(r"https?://", text)
    for path in (ROOT / "ray_cluster.yaml", ROOT / "cluster" / "gcp.yaml"):
        for command in yaml.safe_load(path.read_text())["setup_commands"]:
            assert f" cluster/{Path(command.split()[2]).name} " in text


def test_what_is_copied_is_let_into_the_build_and_nothing_else() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in copied)

"""What a run was made with: versions, machine, and the code, by a digest and by the commit where that is known.

Ray leaves `.git` out of the working directory that a job is submitted with: whoever submits says the commit in
CSLM_GIT_COMMIT. The digest of the package's modules is known everywhere.
"""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from cslm import storage

COMMIT_VARIABLE = "CSLM_GIT_COMMIT"
_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("torch", "ray", "deepspeed", "transformers")


def tags() -> dict[str, str]:
    """Tags of a tracking run. What is not known is left out."""
    found = {f"version.{name}": version for name in _PACKAGES if (version := _version(name))}
    found |= {
        "version.python": platform.python_version(),
        "machine.cpus": str(os.cpu_count()),
        "machine.platform": platform.platform(),
    }
    found["cslm.code"] = _digest_of_modules()
    if commit := commit_of_code():
        found["mlflow.source.git.commit"] = commit
    return found


def commit_of_code() -> str | None:
    """The commit that the code is of, with `+changed` behind it where files differ; None where nobody knows."""
    given = os.environ.get(COMMIT_VARIABLE)
    if given:
        return given
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changed" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _digest_of_modules() -> str:
    total = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        total.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + storage.read_bytes(str(file)))
    return total.hexdigest()[:16]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the folder that the package lies in; None where it is no working copy."""
    try:
        done = subprocess.run(["git", "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

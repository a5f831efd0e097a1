"""What a run was made with: versions, machine, and the commit of the code where it is a working copy of git."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("cslm", "torch", "ray", "deepspeed", "transformers")


def tags() -> dict[str, str]:
    """Tags of a tracking run. What is not known is left out."""
    found = {f"version.{name}": version for name in _PACKAGES if (version := _version(name))}
    found |= {
        "version.python": platform.python_version(),
        "machine.cpus": str(os.cpu_count()),
        "machine.platform": platform.platform(),
    }
    if commit := _git("rev-parse", "HEAD"):
        found["mlflow.source.git.commit"] = commit
        found["cslm.git.changed"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the folder that this module lies in; None where it is no working copy."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

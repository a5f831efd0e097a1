"""Amazon's cloud on this machine, for as long as a block lasts: moto's server, and an `ssh` that goes nowhere."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.data import object_store

_XML = '<{0}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{1}</{0}Response>'
_UNKNOWN = (
    "<Response><Errors><Error><Code>InvalidPlacementGroup.Unknown</Code><Message>unknown</Message></Error></Errors>"
    "<RequestID>0</RequestID></Response>"
)


class Cloud(object_store.Server):
    """moto's server, which knows no placement groups: those are kept here."""

    def __init__(self) -> None:
        self.placement_groups: set[str] = set()
        super().__init__()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if b"PlacementGroup&" in body or b"PlacementGroups&" in body:
            asked = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            return self._placement(asked, start_response)
        return super()._answer(environ, start_response)

    def _placement(self, asked: dict[str, str], start_response: Callable[..., Any]) -> Iterable[bytes]:
        action, name = asked["Action"], asked.get("GroupName") or asked["GroupName.1"]
        known = name in self.placement_groups
        if not known and action != "CreatePlacementGroup":
            start_response("400 Bad Request", [("Content-Type", "text/xml")])
            return [_UNKNOWN.encode()]
        if action == "CreatePlacementGroup":
            self.placement_groups.add(name)
        if action == "DeletePlacementGroup":
            self.placement_groups.remove(name)
        start_response("200 OK", [("Content-Type", "text/xml")])
        return [_XML.format(action, "<return>true</return>").encode()]


# Says of an image what `docker inspect` would, and otherwise only what it was asked to do.
_PROGRAM = """#!/bin/sh
printf '%s\\n' "{name} $*" >> "{home}/ssh.log"
case "$*" in *".Config.Env"*) echo '["HOME=/home/cslm"]' ;; *"command -v docker"*) echo /usr/bin/docker ;; esac
"""


@contextmanager
def running(home: Path) -> Iterator[Cloud]:
    """A cloud that boto3 and Ray find; `home` is the owner's, and `ssh.log` in it what `ssh` and `rsync` were to do."""
    programs = home / "bin"
    programs.mkdir()
    for name in ("ssh", "rsync", "scp"):
        program = programs / name
        program.write_text(_PROGRAM.format(name=name, home=home))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with object_store.running(Cloud) as cloud, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        yield cloud

"""A server of the part of Google Cloud Storage's JSON interface that storage needs, on a free port of this machine.

It is a process of its own: pyarrow waits for some answers with Python's lock held.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BUCKET = "corpora"
_OBJECT = re.compile(rf"/storage/v1/b/{BUCKET}/o/([^/]+)")
_COPY = re.compile(rf"/storage/v1/b/{BUCKET}/o/([^/]+)/rewriteTo/b/{BUCKET}/o/([^/]+)")


class Server(ThreadingHTTPServer):
    """A running server with its objects."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, query = self._begin()
        if match := _OBJECT.fullmatch(path):
            name = unquote(match[1])
            if name not in self.server.objects:
                self._answer(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
            elif query.get("alt") == ["media"]:
                self._content(self.server.objects[name])
            else:
                self._answer(200, self._told(name))
        else:
            prefix = query.get("prefix", [""])[0]
            cut = query.get("delimiter", [""])[0]
            names = [name for name in sorted(self.server.objects) if name.startswith(prefix)]
            ends = {name: name.find(cut, len(prefix)) if cut else -1 for name in names}
            items = [self._told(name) for name in names if ends[name] < 0]
            prefixes = sorted({name[: end + 1] for name, end in ends.items() if end >= 0})
            self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": prefixes})

    def do_POST(self) -> None:
        path, _ = self._begin()
        if match := _COPY.fullmatch(path):
            source, target = unquote(match[1]), unquote(match[2])
            self.server.objects[target] = self.server.objects[source]
            size = str(len(self.server.objects[target]))
            told = {"kind": "storage#rewriteResponse", "done": True, "objectSize": size, "totalBytesRewritten": size}
            self._answer(200, told | {"resource": self._told(target)})
        else:
            session = f"{self.server.endpoint}/session?name={self.path.rpartition('name=')[2]}"
            self._answer(200, {}, Location=session)

    def do_PUT(self) -> None:
        _, query = self._begin()
        [name] = query["name"]
        self.server.objects[name] = self._body
        self._answer(200, self._told(name))

    def do_DELETE(self) -> None:
        path, _ = self._begin()
        match = _OBJECT.fullmatch(path)
        assert match
        if self.server.objects.pop(unquote(match[1]), None) is None:
            self._answer(404, {"error": {"code": 404, "message": "No such object"}})
        else:
            self._answer(204, None)

    def _begin(self) -> tuple[str, dict[str, list[str]]]:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query)

    def _told(self, name: str) -> dict[str, Any]:
        size, time = str(len(self.server.objects[name])), "2026-01-01T00:00:00.000Z"
        fixed = {"kind": "storage#object", "bucket": BUCKET, "generation": "1", "metageneration": "1"}
        return fixed | {"name": name, "size": size, "timeCreated": time, "updated": time}

    def _content(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None:
            self._send(200, data, {})
            return
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        self._send(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _answer(self, status: int, value: Any, **headers: str) -> None:
        self._send(status, b"" if value is None else json.dumps(value).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running() -> Iterator[str]:
    """The endpoint of a server that `gs://` leads to as long as the block lasts."""
    started = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    endpoint = started.stdout.readline().strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        try:
            yield endpoint
        finally:
            started.stdin.close()
            started.wait()


if __name__ == "__main__":
    server = Server()
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.endpoint, flush=True)
    sys.stdin.read()  # ends with the process that started this one

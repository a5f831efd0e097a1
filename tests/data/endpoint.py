"""An endpoint of OpenAI's chat form on this machine, for as long as a block lasts."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint(ThreadingHTTPServer):
    """An endpoint of chat completions on this machine; `replies` are given in turn, the last one for ever."""

    def __init__(self, replies: Sequence[Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = list(replies)
        # Path, Authorization header and body of each request.
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Endpoint":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        reply = self.server.replies[0] if len(self.server.replies) == 1 else self.server.replies.pop(0)
        status, content = reply if isinstance(reply, tuple) else (200, reply)
        told = content if isinstance(content, dict) else {"choices": [{"message": {"content": content}}]}
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass

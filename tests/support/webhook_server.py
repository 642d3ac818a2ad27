"""A real HTTP server on loopback that answers POSTs as it is told, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = 0  # instead of a status: no answer until the server stops
SECRET = "/services/T0/B1/s3cr3t-of-the-address"


class Receiver(ThreadingHTTPServer):
    """Answers with the given statuses in turn, then with 200."""

    daemon_threads = True

    def __init__(self, answers: list[tuple[int, Mapping[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.received, self.stopping = answers, list[dict[str, Any]](), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{SECRET}?token=hidden"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append({"path": self.path, "type": self.headers["Content-Type"], "body": json.loads(body)})
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == HANG:
            self.server.stopping.wait()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Says nothing."""


@contextmanager
def receiving(*answers: int | tuple[int, Mapping[str, str]]) -> Iterator[Receiver]:
    """Runs one for the length of the block."""
    server = Receiver([answer if isinstance(answer, tuple) else (answer, {}) for answer in answers])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()

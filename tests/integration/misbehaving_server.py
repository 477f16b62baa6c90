"""A local HTTP server that does what its script says: answers, waits, refuses, lies, breaks off."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler"], None]


@dataclass(frozen=True)
class Request:
    """What arrived, and when."""

    path: str
    headers: Mapping[str, str]
    body: Any
    seconds: float


@dataclass
class Script:
    """The server's acts, one per request; the last one is repeated."""

    url: str
    acts: list[Act]
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    """bytes that `huge` could send"""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, request: Request) -> Act:
        with self.lock:
            self.requests.append(request)
            return self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]


class Server(ThreadingHTTPServer):
    script: Script

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what some of the tests are about."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._act(body)

    def do_GET(self) -> None:
        self._act(None)

    def _act(self, body: Any) -> None:
        self.seen = Request(self.path, dict(self.headers.items()), body, time.monotonic())
        self.server.script.next(self.seen)(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(*acts: Act) -> Iterator[Script]:
    """Such a server on a port that is free, in a thread of its own."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.script = Script(f"http://127.0.0.1:{server.server_port}", list(acts))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.script
        finally:
            server.script.closing.set()
            server.shutdown()
            thread.join()


def raw(data: bytes, status: int = 200, claims: int | None = None, **headers: str) -> Act:
    """Bytes as they are, with the length that is claimed for them."""

    def act(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data) if claims is None else claims)}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return act


def answer(body: Any, status: int = 200, **headers: str) -> Act:
    """JSON."""
    return raw(json.dumps(body).encode(), status, None, **headers)


def cut(body: Any) -> Act:
    """Half of the JSON, then nothing."""
    data = json.dumps(body).encode()
    return raw(data[: len(data) // 2], claims=len(data))


def slow(seconds: float, then: Act) -> Act:
    """Waits first, unless the test is over."""

    def act(handler: Handler) -> None:
        handler.server.script.closing.wait(seconds)
        then(handler)

    return act


def drop(handler: Handler) -> None:
    """No answer at all."""
    handler.connection.close()


def huge(handler: Handler) -> None:
    """A body without an end that is in sight: up to a gigabyte."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(2**14):
        handler.wfile.write(b" " * 2**16)
        handler.server.script.sent += 2**16


def computed(function: Callable[[Any], Any]) -> Act:
    """What a function makes of the request's body."""

    def act(handler: Handler) -> None:
        answer(function(handler.seen.body))(handler)

    return act

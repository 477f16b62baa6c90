"""The run's side of weights over HTTP: files that servers without a shared folder pull (`pull.py` is theirs).

    GET /<version>/<file>    Authorization: Bearer <token of this run>; `Range: bytes=N-` resumes a broken pull

The token is this run's own, made anew at every start, and reaches a server in the order to pull. A file is looked up
among those that are offered, never in a folder; where nothing is offered nothing is answered.
"""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xxhash

from reasoner.sampling.server.pull import BLOCK, PullOrder, WeightFile

_IDLE_S = 30.0
"""seconds without a byte after which a connection ends"""
_CONNECTIONS = 256
"""at the same time; more are refused"""
_HASHES = 4
"""files whose checksums are computed at the same time"""


@dataclass(frozen=True, slots=True)
class _Offered:
    """What may be pulled now."""

    version: str
    files: Mapping[str, Path]


class WeightOffer:
    """Serves the files of one folder at a time, on those addresses of this machine that lead to the servers.

    Args:
        urls: of the servers that will pull.

    Raises:
        OSError: no address of this machine leads to one of them.
    """

    def __init__(self, urls: Collection[str]) -> None:
        self.token = secrets.token_urlsafe(32)
        self.offered: _Offered | None = None
        self._listeners: dict[str, _Listener] = {}
        for address in sorted({address for url in urls for address in addresses_toward(url)}):
            listener = _Listener(address, self)
            self._listeners[address] = listener
            threading.Thread(target=listener.serve_forever, args=(0.1,), name="weights over HTTP", daemon=True).start()

    @contextmanager
    def offering(self, folder: Path, version: str) -> Iterator[PullOrder]:
        """Offer the files in `folder` until the block is left; yields what a server has to be told to pull them.

        Args:
            version: name of the weights; none other is pulled by mistake.
        """
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        with ThreadPoolExecutor(_HASHES) as pool:
            sums = pool.map(_sum, files.values())
            parts = tuple(
                WeightFile(name=name, size=path.stat().st_size, checksum=checksum)
                for (name, path), checksum in zip(files.items(), sums, strict=True)
            )
        self.offered = _Offered(version, files)
        try:
            yield PullOrder(ports=self.ports, token=self.token, version=version, files=parts)
        finally:
            self.offered = None

    @property
    def ports(self) -> dict[str, int]:
        """Address of this machine -> port that listens there."""
        return {address: listener.server_address[1] for address, listener in self._listeners.items()}

    def close(self) -> None:
        """Listen no more; what is being pulled breaks off."""
        self.offered = None
        for listener in self._listeners.values():
            listener.shutdown()
            listener.server_close()


def addresses_toward(url: str) -> set[str]:
    """The addresses of this machine from which it reaches a server; one for each kind of address that its name has.

    Raises:
        OSError: none does.
    """
    parts = urlsplit(url)
    addresses: set[str] = set()
    failures: list[OSError] = []
    for family, _, _, _, address in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # nothing is sent
                addresses.add(str(probe.getsockname()[0]))
        except OSError as error:
            failures.append(error)
    if not addresses:
        raise failures[0]
    return addresses


def _sum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, offer: WeightOffer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.offer = offer
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__((address, 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A server that breaks off pulls again, or is out and said to be."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Send a file, or the rest of one."""
        offer = self.server.offer
        given = self.headers.get("Authorization", "").encode()
        if not secrets.compare_digest(given, f"Bearer {offer.token}".encode()):
            self._refuse(401, "the token is not this run's")
            return
        version, _, name = self.path.removeprefix("/").partition("/")
        offered = offer.offered
        if offered is None or offered.version != version:
            now = f"{offered.version!r}" if offered else "none"
            self._refuse(409, f"the weights {version[:80]!r} are not offered; there are {now}")
            return
        path = offered.files.get(name)
        if path is None:
            self._refuse(404, f"there is no file {name[:80]!r}")
            return
        self._send_file(path)

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d{1,18})-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            if start > size:
                self._refuse(416, f"the file has {size} bytes")
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            if size > start:
                self.connection.sendfile(file, start)

    def _refuse(self, status: int, why: str) -> None:
        data = why.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests would be in the view of the run."""

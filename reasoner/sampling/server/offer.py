"""The run's side of weights over HTTP: files that servers without a shared folder pull (`pull.py` is theirs).

    GET /<version>/<file>    X-Nonce: <the server's>; answered with 401, X-Nonce: <the run's> and X-Proof of the run
    GET /<version>/<file>    X-Proof of the server, on the same connection; `Range: bytes=N-` resumes a broken pull

The token that the proofs are made with is this run's own, made anew at every start, and reaches a server in the order
to pull; here it is never sent. A file is looked up among those that are offered, never in a folder; where nothing is
offered nothing is answered.
"""

from __future__ import annotations

import re
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import xxhash

from reasoner.sampling.server.pull import NONCE, PROOF, PullOrder, WeightFile, proof
from reasoner.sampling.server.timed_socket import TimedSocket

_IDLE_S = 30.0
"""seconds in which nothing of a file can be sent after which a connection ends"""
_HEAD_S = 5.0
"""seconds for a request, from the connection or the answer before it on"""
_CONNECTIONS = 256
"""at the same time; more are refused"""
_PER_ADDRESS = 64
"""of them, from one address"""
_BLOCK = 2**22
"""bytes that are read at once for a checksum"""
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
        try:
            for address in sorted({address for url in urls for address in addresses_toward(url)}):
                self._listeners[address] = _Listener(address, self)
        except BaseException:
            self.close()
            raise

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
            listener.end()


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
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, offer: WeightOffer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.offer = offer
        self._lock = threading.Lock()
        self._open: dict[TimedSocket, str] = {}
        """connection -> address that it comes from"""
        super().__init__((address, 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="weights over HTTP", daemon=True).start()

    def end(self) -> None:
        """Listen no more, and break off what is open."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # it has just ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[Any, Any]:
        request, client_address = super().get_request()
        return TimedSocket(request, _IDLE_S, time.monotonic() + _HEAD_S), client_address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room; strangers at one address leave some for the servers at others."""
        with self._lock:
            of_address = sum(address == client_address[0] for address in self._open.values())
            if len(self._open) >= _CONNECTIONS or of_address >= _PER_ADDRESS:
                return False
            self._open[request] = client_address[0]
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A server that breaks off pulls again, or is out and said to be."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    connection: TimedSocket
    protocol_version = "HTTP/1.1"
    _nonces: tuple[str, str] | None = None
    """the server's and this run's, once they are said"""

    def handle_one_request(self) -> None:
        self.connection.ends = time.monotonic() + _HEAD_S
        super().handle_one_request()

    def do_GET(self) -> None:
        """Show that this is the run; then, to a server that was given the token, send a file, or the rest of one."""
        offer, part = self.server.offer, self.headers.get("Range", "")
        if self._nonces is None and NONCE in self.headers:
            self._nonces = (self.headers[NONCE], secrets.token_hex(16))
            own = proof(offer.token, "run", self._nonces, self.path, part)
            self._refuse(401, "", {NONCE: self._nonces[1], PROOF: own})
            return
        self.close_connection = True
        given = self.headers.get(PROOF, "").encode(errors="replace")
        if self._nonces is None or not secrets.compare_digest(
            given, proof(offer.token, "server", self._nonces, self.path, part).encode()
        ):
            self._refuse(401, "who asks does not know this run's token")
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

    def _refuse(self, status: int, why: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        data = why.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests would be in the view of the run."""

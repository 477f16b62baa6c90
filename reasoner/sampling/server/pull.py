"""The server's side of weights over HTTP: the files of a version, pulled from the run that asks for it (`offer.py`).

A server pulls from the machine that asks it to and from no other: whoever may ask cannot have it read somewhere else.
What listens there must first show that it knows the run's token, which it is not sent (`proof`); of what else may
answer, behind a tunnel for instance, nothing is passed on.

    server: nonce       run: nonce, proof       server: proof       run: the file, or the rest of it

Every file is as long as the order says or is refused, is resumed where a connection broke, and has the order's checksum
before anything is loaded. The receipt of what was loaded is the worker's (`vllm/worker.py`).
"""

from __future__ import annotations

import hmac
import http.client
import ipaddress
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Annotated

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from reasoner.errors import SamplerError
from reasoner.processes.machine import GIB, MEMORY_FOLDER, why_not_in_memory
from reasoner.sampling.server.timed_socket import TimedSocket

PULL_S = 900.0
"""seconds that a pull may take"""
NONCE, PROOF = "X-Nonce", "X-Proof"
"""headers of what both sides say before a file comes"""
_BLOCK = 2**18
"""bytes that are read at most at once: whatever came is written, so that it is there when the connection breaks"""
_IDLE_S = 20.0
"""seconds without a byte, or without the heads of both answers, after which a connection counts as broken"""
_STREAMS = 4
"""files at the same time"""
_FAILURES = 6
"""connections in a row that bring nothing, after which the pull ends"""
_PAUSE_S = 0.25
"""seconds before the second of them; doubled before each further one"""

_REFUSALS = {404: ": there is no such file", 409: ": these weights are not offered", 416: ": the file is shorter"}

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
"""of a file: never a path"""


class PullError(SamplerError):
    """The weights were not pulled; the message says why, as the end of a sentence."""


class WeightFile(BaseModel):
    """A file to pull."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    size: Annotated[int, Field(ge=0, le=2**44)]
    """bytes"""
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """XXH3 of the whole file, 128 bits"""


class PullOrder(BaseModel):
    """What a run tells a server to pull."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ports: dict[str, Annotated[int, Field(gt=0, lt=65536)]]
    """address of the run's machine -> port on which the files are there"""
    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,200}$", repr=False)]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9:._-]{1,100}$")]
    """name of the weights: the run's, a colon, and its own"""
    files: Annotated[tuple[WeightFile, ...], Field(min_length=1, max_length=5000)]
    is_trial: bool = False
    """whether the files are removed as soon as they are there"""

    @property
    def owner(self) -> str:
        """The run whose weights they are."""
        return self.version.partition(":")[0]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def place(self, host: str) -> tuple[str, int]:
        """Address and port from which a server pulls whose run asks from the address `host`.

        Raises:
            PullError: the run does not listen there.
        """
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            raise PullError(f"the run asks from {host!r}, which is no address of a machine") from None
        address = getattr(address, "ipv4_mapped", None) or address
        if port := self.ports.get(str(address)):
            return str(address), port
        raise PullError(
            f"the run asks from {address} and offers its weights at {', '.join(sorted(self.ports))}: something between "
            "the two changes addresses (NAT, a proxy, a tunnel)"
        )


def place_for(size: int) -> Path:
    """Where so many bytes are pulled to: memory where they fit, else the folder for temporary files.

    Raises:
        PullError: there is no room for them.
    """
    why = why_not_in_memory(size)
    if not why:
        return MEMORY_FOLDER
    temporary = Path(tempfile.gettempdir())
    free = shutil.disk_usage(temporary).free
    if size >= free:
        raise PullError(
            f"the weights fit nowhere: {why}; {temporary} has {free / GIB:.2f} GiB free, "
            f"{size / GIB:.2f} GiB are needed"
        )
    return temporary


def pull(order: PullOrder, host: str, folder: Path) -> None:
    """Write the files of an order into `folder`.

    Args:
        host: the address that the order came from.

    Raises:
        PullError: they could not be pulled, or are not what the order says.
    """
    names = [file.name for file in order.files]
    if len(set(names)) < len(names):
        raise PullError(f"the order names a file twice: {names}")
    source = _Source(order, *order.place(host), time.monotonic() + PULL_S)
    with ThreadPoolExecutor(_STREAMS) as pool:
        pulls = [pool.submit(_pull_file, source, file, folder / file.name) for file in order.files]
        try:
            for running in pulls:
                running.result()
        finally:
            source.over.set()
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Source:
    """Where the files of an order are."""

    order: PullOrder
    address: str
    port: int
    ends: float
    """the moment after which nothing is read any more"""
    over: Event = field(default_factory=Event)
    """nobody waits for the files any more"""

    def connect(self) -> TimedSocket:
        """
        Raises:
            OSError: there is no connection.
        """
        left = max(0.001, min(_IDLE_S, self.ends - time.monotonic()))
        plain = socket.create_connection((self.address, self.port), timeout=left)
        return TimedSocket(plain, _IDLE_S, self.ends)

    def check_time(self, name: str, why: str = "") -> None:
        """See whether there is time for more of a file.

        Raises:
            PullError: there is none.
        """
        if self.over.is_set():
            raise PullError("another file could not be pulled")
        if time.monotonic() > self.ends:
            raise PullError(f"{name} was not there after {PULL_S:.0f} s{why}")


def _pull_file(source: _Source, file: WeightFile, path: Path) -> None:
    """Pull a file; a second time where it came damaged.

    Raises:
        PullError: it cannot be pulled, or comes damaged both times.
    """
    for _ in range(2):
        checksum = _fetch(source, file, path)
        if checksum == file.checksum:
            return
    raise PullError(
        f"{file.name} of the weights {source.order.version!r} came twice with the checksum {checksum}, and the "
        f"run's is {file.checksum}"
    )


def _fetch(source: _Source, file: WeightFile, path: Path) -> str:
    """Write the whole file, over as many connections as it takes; returns its checksum."""
    digest, failures = xxhash.xxh3_128(), 0
    with _opened(path) as out:
        while (have := out.tell()) < file.size:
            try:
                for block in _blocks(source, file, have):
                    digest.update(block)
                    _write(out, memoryview(block))
            except (OSError, http.client.HTTPException) as error:
                failures = 1 if out.tell() > have else failures + 1
                _pause(source, file, failures, error)
    return digest.hexdigest()


def _opened(path: Path) -> FileIO:
    try:
        return path.open("wb", buffering=0)  # nothing is left to be written at its end
    except OSError as error:
        raise PullError(f"{path} cannot be written: {error.strerror}") from None


def _write(out: FileIO, block: memoryview) -> None:
    try:
        while block:
            block = block[out.write(block) :]
    except OSError as error:
        raise PullError(f"{out.name!s} cannot be written: {error.strerror}") from None


def _pause(source: _Source, file: WeightFile, failures: int, error: Exception) -> None:
    """Wait before the next connection.

    Raises:
        PullError: there have been enough.
    """
    # what is wrong with an answer quotes it, and it may be anybody's
    quoted = f": {error}" if str(error) and isinstance(error, OSError) else ""
    said = f" ({type(error).__name__}{quoted})"
    if failures >= _FAILURES:
        raise PullError(
            f"http://{source.address}:{source.port} brought nothing {failures} times in a row{said}"
        ) from None
    source.check_time(file.name, said)
    source.over.wait(_PAUSE_S * 2 ** (failures - 1))


def _blocks(source: _Source, file: WeightFile, start: int) -> Iterator[bytes]:
    """What one connection brings of the file from a byte on, as it comes.

    Raises:
        OSError, HTTPException: it broke off.
        PullError: it is not what was asked for.
    """
    connection = http.client.HTTPConnection(source.address, source.port)
    connection.auto_open = 0
    try:
        connection.sock = timed = source.connect()
        path, part = f"/{source.order.version}/{file.name}", f"bytes={start}-"
        timed.ends = min(source.ends, time.monotonic() + _IDLE_S)
        connection.request("GET", path, headers={"Range": part, PROOF: _proof_to(connection, source, path, part)})
        with connection.getresponse() as answer:
            _check_answer(answer, source, file, start)
            timed.ends, left = source.ends, file.size - start
            while left:
                source.check_time(file.name)
                block = answer.read1(min(left, _BLOCK))
                if not block:
                    raise ConnectionError(f"{left} bytes are missing")
                left -= len(block)
                yield block
    finally:
        connection.close()


def proof(token: str, side: str, nonces: tuple[str, str], path: str, part: str) -> str:
    """What only who has the token can say, and what is of use once only.

    Args:
        side: who says it: `run` or `server`.
        nonces: the server's and the run's, of this connection.
        path: of the file.
        part: the `Range` of it.
    """
    return hmac.digest(token.encode(), "\n".join((side, *nonces, path, part)).encode(), "sha256").hex()


def _proof_to(connection: http.client.HTTPConnection, source: _Source, path: str, part: str) -> str:
    """This server's proof, for a run that has given its own.

    Raises:
        PullError: what answers is not the run.
    """
    nonce = secrets.token_hex(16)
    connection.request("GET", path, headers={"Range": part, NONCE: nonce})
    with connection.getresponse() as answer:
        nonces, token = (nonce, answer.headers.get(NONCE, "")), source.order.token
        expected, given = proof(token, "run", nonces, path, part), answer.headers.get(PROOF, "")
        is_run = hmac.compare_digest(expected.encode(), given.encode(errors="replace"))
        if not is_run or answer.read1(1):
            raise PullError(
                f"what listens at {source.address}, port {source.port}, is not the run: it does not know the run's "
                "token. Something between the two changes addresses (a tunnel such as `ssh -L`, a proxy)"
            )
    return proof(token, "server", nonces, path, part)


def _check_answer(answer: http.client.HTTPResponse, source: _Source, file: WeightFile, start: int) -> None:
    """See whether an answer is the rest of the file.

    Raises:
        PullError: it is something else.
    """
    if answer.status != 206:
        raise PullError(
            f"the run refuses {file.name} of the weights {source.order.version!r} with status "
            f"{answer.status}{_REFUSALS.get(answer.status, '')}"
        )
    wanted = f"bytes {start}-{file.size - 1}/{file.size}"
    if answer.headers.get("Content-Range") != wanted or answer.length != file.size - start:
        raise PullError(f"of {file.name} {wanted} were asked for, and something else came")

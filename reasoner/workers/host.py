"""A host: a small process between the main process and the workers.

It imports the plugins once and forks workers from itself, hands each worker one call at a time, and kills a worker with
everything it started when the call's deadline has passed. It is single-threaded and never waits for a worker. Host and
workers are subreapers, so no orphan leaves the tree. It ends, and everything below it with it, when the main process
says so, closes the pipe or dies.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.errors import ConfigError, UserError
from reasoner.processes.subreaper import become_subreaper, end_children
from reasoner.workers.lines import CANCEL, CLOSE, START_S, LineBuffer, dump_line
from reasoner.workers.worker_pool import WorkerPool

PATIENCE_S = 1.0
"""seconds after which the host looks whether the main process is still there"""

OPEN_FILES = 2**16
"""that a host asks for at most, two for each worker: some programs close every number that may be open, one by one"""

OpenPool = Callable[[selectors.BaseSelector, Callable[[bytes], None], Callable[[], None]], WorkerPool[Any]]
"""(the host's selector, what takes lines for the main process, what closes the host's descriptors in a worker)"""


@dataclass(frozen=True, slots=True)
class HostStart:
    """What a host does, once its plugins are imported."""

    parent: int
    """process id of the main process; the host ends when it has another parent"""
    ready: bytes
    """the line with which it says that it is ready"""
    open_pool: OpenPool


class HostLoop:
    """The event loop: calls in, results out, deadlines in between."""

    def __init__(self, start: HostStart, inbox: int, outbox: int) -> None:
        self._parent, self._inbox, self._outbox = start.parent, inbox, outbox
        self._ready = start.ready
        self._incoming = LineBuffer()
        self._results: list[bytes] = []
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._child_died = socket.socketpair()
        self._pool = start.open_pool(self._selector, self._results.append, self._detach)

    def run(self) -> None:
        """Serve until the main process says so, closes the pipe or is gone."""
        for end in (self._wakeup, self._child_died):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._child_died.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._receive)
        self._send(self._ready)
        try:
            while self._open and os.getppid() == self._parent:
                for key, _ in self._selector.select(max(0.0, min(PATIENCE_S, self._pool.patience()))):
                    handle: Callable[[], None] = key.data
                    handle()
                self._pool.turn()
                self._flush()
        finally:
            self._pool.close()

    def _receive(self) -> None:
        data = os.read(self._inbox, 2**20)
        self._open = bool(data)
        for line in self._incoming.feed(data):
            if line == CANCEL:
                self._pool.cancel()
            elif line == CLOSE:
                self._open = False
            else:
                self._pool.submit(line)

    def _reap(self) -> None:
        self._wakeup.recv(4096)
        self._pool.reap()

    def _flush(self) -> None:
        if self._results:
            self._send(b"".join(self._results))
            self._results.clear()

    def _send(self, data: bytes) -> None:
        """Write to the main process; give up when it is gone (a child of it may hold the pipe's other end)."""
        view = memoryview(data)
        while view and self._open:
            if select.select([], [self._outbox], [], PATIENCE_S)[1]:
                view = view[os.write(self._outbox, view[: select.PIPE_BUF]) :]
            else:
                self._open = os.getppid() == self._parent

    def _detach(self) -> None:
        """In a forked worker: nothing of the host's may be reached from there."""
        self._selector.close()
        self._wakeup.close()
        self._child_died.close()
        os.close(self._inbox)
        os.close(self._outbox)


def run_host(name: str, boot: Callable[[bytes], HostStart]) -> None:
    """The whole life of a host process: the protocol is on its standard input and output, its log is standard error.

    Args:
        name: what messages call it: `the scoring host`.
        boot: takes the first line of the main process, imports plugins and gets ready; a `UserError` is told to the
            main process.
    """
    allow_open_files()
    inbox, outbox = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.alarm(START_S)
    try:
        become_subreaper()
        start = boot(_first_line(inbox))
        gc.freeze()  # what is loaded now stays shared with the workers
        signal.alarm(0)
        HostLoop(start, inbox, outbox).run()
    except UserError as error:
        os.write(outbox, dump_line({"refused": str(error)}))
    except BrokenPipeError:
        pass  # the main process is gone, so nobody is left to tell
    finally:
        left = end_children()
    if left:
        sys.exit(f"processes below {name} could not be ended: {', '.join(left)}")


def allow_open_files() -> None:
    """Raise this process's limit on open files as far as it may, up to `OPEN_FILES`: the usual 1024 are too few for the
    workers of many responses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def check_memory(key: str, memory_mb: int) -> None:
    """Refuse a limit that the imported plugins alone exceed.

    Raises:
        ConfigError: naming the key.
    """
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() // 2**20
    if taken >= memory_mb:
        raise ConfigError(
            f"{key} = {memory_mb} is less than the {taken} MB of address space that the plugins take before the first "
            "call; raise it."
        )


def get_ready(owner: str, prepare: Callable[[], None] | None) -> None:
    """Import what is slow to import, once for all workers.

    Raises:
        ConfigError: it raised.
    """
    if prepare is None:
        return
    try:
        prepare()
    except Exception as error:
        raise ConfigError(f"{owner} cannot get ready: {type(error).__name__}: {error}") from error


def _first_line(inbox: int) -> bytes:
    # Byte by byte: what follows belongs to the loop.
    line = bytearray()
    while (byte := os.read(inbox, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)

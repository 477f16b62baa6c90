"""What the launchers of a run's nodes tell each other: that they are there, and how their ranks ended.

Torch's launcher starts and ends the ranks of one node; that those of another failed it learns from a collective that
breaks, or not at all. So every launcher writes its end onto a board, a store of torch's on the first node, and ends
its ranks when it finds one there. The first node says which end was behind the others, and all go by it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from reasoner.errors import RunError, UserError
from reasoner.launch.cluster import Node

MEET_WITHIN = 600
"""seconds for the launchers of all nodes to be there"""
TELL_WITHIN = 30
"""seconds for all of them to say how they ended, once one has: their ranks are ended first"""
_LOOK_EVERY = 0.3
"""seconds"""
_SILENT = 60
"""seconds without a sign of life after which a launcher counts as gone"""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """How the ranks of a node, or one of them, ended."""

    rung: int
    """The distance from the cause: 0, a rank reported why it failed, or a user asked for the end; 1, a rank or a
    launcher was killed, or a rank waited in vain for one that still runs; 2, a rank or launcher lost contact with
    another; 3, its launcher ended it."""
    time: float
    """Seconds since the epoch."""
    message: str
    code: int
    """The exit status of this process."""

    @property
    def order(self) -> tuple[int, float]:
        """A sort key: the end with the least one is the cause of the others."""
        return self.rung, self.time


class Coordinator:
    """The launchers of a run, seen from the one of `node`."""

    def __init__(self, node: Node, store: Any) -> None:
        """`store`: a `torch.distributed.Store` that all of them see."""
        self._node, self._store = node, store
        self._others = [index for index in range(node.count) if index != node.index]
        self._beats: dict[int, tuple[bytes, float]] = {}
        """on the first node: the last sign of life of each other one, and when it was new"""
        self.port = int(store.port)

    def meet(self, say: Callable[[str], None]) -> None:
        """Wait for the launchers of all nodes.

        Raises:
            RunError: not all came.
        """
        self._write("here", self._node.name or f"node {self._node.index}")
        missing = self._wait("here", MEET_WITHIN, say)
        if missing:
            raise RunError(
                f"{len(missing)} of {self._node.count} nodes did not start within {MEET_WITHIN} seconds (numbers "
                f"{', '.join(map(str, missing))}, counted from 0): see their output"
            )

    @contextmanager
    def watched(self, stop: Callable[[float], None]) -> Iterator[threading.Event]:
        """Meanwhile `stop(seconds since then)` is called, again and again, when another node has ended; the event says
        that one has."""
        done, notified = threading.Event(), threading.Event()

        def watch() -> None:
            since: float | None = None
            while not done.wait(_LOOK_EVERY):
                if since is None and self._is_over():
                    since = time.monotonic()
                    notified.set()
                if since is not None:
                    stop(time.monotonic() - since)

        thread = threading.Thread(target=watch, name="board", daemon=True)
        if self._others:
            thread.start()
        try:
            yield notified
        finally:
            done.set()
            if self._others:
                thread.join(_SILENT)  # it asks the store, which may be gone

    def settle(self, own: NodeEnd) -> NodeEnd:
        """Say how the ranks here ended; returns what was behind the end of all."""
        if not self._others:
            return own
        try:
            self._write("end", asdict(own))
            self._store.set("over", b"")
            if not self._node.first:
                return self._verdict()
            gone = [self._missing_node(index) for index in self._wait("end", TELL_WITHIN)]
            verdict = min((own, *self._ends(), *gone), key=lambda end: end.order)
            self._store.set("verdict", json.dumps(asdict(verdict)))
            if not gone:
                self._wait("read", 5)
        except RuntimeError:  # torch's, when the store is gone
            return min(own, self._lost_node(), key=lambda end: end.order)
        return verdict

    def _verdict(self) -> NodeEnd:
        deadline = time.monotonic() + TELL_WITHIN + 10
        while not self._store.check(["verdict"]):
            if time.monotonic() > deadline:
                return self._lost_node()
            time.sleep(_LOOK_EVERY)
        verdict = NodeEnd(**json.loads(self._store.get("verdict")))
        self._write("read", {})
        return verdict

    def _ends(self) -> list[NodeEnd]:
        keys = [f"end/{index}" for index in self._others]
        return [NodeEnd(**json.loads(self._store.get(key))) for key in keys if self._store.check([key])]

    def _lost_node(self) -> NodeEnd:
        return NodeEnd(2, time.time(), f"the launcher on {self._node.host}, the first node, is gone", 1)

    def _missing_node(self, index: int) -> NodeEnd:
        name = json.loads(self._store.get(f"here/{index}"))
        return NodeEnd(1, time.time(), f"the launcher on {name}, which may have been killed, does not answer", 1)

    def _beat(self) -> bool:
        """Report that this launcher is alive; on the first node, return whether another one has not reported for
        long."""
        now = time.monotonic()
        self._write("beat", now)
        if self._node.first:
            for index in self._others:
                beat = self._store.get(f"beat/{index}") if self._store.check([f"beat/{index}"]) else b""
                if self._beats.get(index, (b"?", now))[0] != beat:
                    self._beats[index] = (beat, now)
        return any(now - since > _SILENT for _, since in self._beats.values())

    def _is_over(self) -> bool:
        """Whether another node has ended, or its launcher is gone."""
        try:
            return bool(self._store.check(["over"])) or self._beat()
        except RuntimeError:  # torch's: the first node is gone
            return True

    def _write(self, what: str, value: object) -> None:
        self._store.set(f"{what}/{self._node.index}", json.dumps(value))

    def _wait(self, what: str, seconds: float, say: Callable[[str], None] | None = None) -> list[int]:
        """Wait for the others to have written it; returns those that have not."""
        deadline, announce_at = time.monotonic() + seconds, time.monotonic() + 5
        while missing := [index for index in self._others if not self._store.check([f"{what}/{index}"])]:
            if time.monotonic() > deadline:
                return missing
            if say and time.monotonic() > announce_at:
                say(f"waiting for {len(missing)} of {self._node.count} nodes")
                say = None
            time.sleep(_LOOK_EVERY)
        return []


def open_board(node: Node) -> Coordinator:
    """The board of a run, which the first node keeps.

    Raises:
        UserError: its port is taken.
        RunError: the first node cannot be reached.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if node.first:
        try:
            return Coordinator(
                node, TCPStore(node.host, node.port, None, True, wait_for_workers=False, multi_tenant=True)
            )
        except RuntimeError as error:
            raise UserError(
                f"{node.host} cannot listen at port {node.port}, where the nodes of the run would meet: another run "
                f"may do so, or {node.host} is not the name of this machine\n{str(error).splitlines()[0]}"
            ) from error
    _reach(node)
    return Coordinator(node, TCPStore(node.host, node.port, None, False, wait_for_workers=False))


def _reach(node: Node) -> None:
    """Wait until the first node listens: torch's client would fill the terminal meanwhile."""
    deadline = time.monotonic() + MEET_WITHIN
    while True:
        try:
            socket.create_connection((node.host, node.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"the first node cannot be reached at {node.host}:{node.port}: {error}; see its output, and "
                    f"check whether a firewall separates the nodes"
                ) from error
            time.sleep(_LOOK_EVERY)

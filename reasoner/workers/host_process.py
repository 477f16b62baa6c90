"""A host as the main process sees it: a child with two pipes, a log and two threads that move lines."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

from reasoner.processes.child_python import boot_command
from reasoner.processes.parent_watchdog import end_processes
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.processes.subreaper import kill, wait_gone
from reasoner.workers.lines import CLOSE, START_S

_log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""seconds for the host to end by itself"""
LOG_TAIL = 4000
"""bytes of the host's log that an error shows"""

_MARK = "REASONER_HOST"

Inbox = queue.SimpleQueue[bytes | None]
"""lines of the host; None: there will be no more"""


class HostProcess:
    """Starts the host and ends it. Threads do the reading and writing, so that an interrupt cannot cut a line in two.

    The host is started afresh, not forked: a process that holds CUDA or an inference engine cannot be forked safely. It
    and its workers have a folder for temporary files of their own, which goes with them: what a killed call had in it
    is nobody's to remove.
    """

    def __init__(self, name: str, module: str, plan: bytes) -> None:
        """
        Args:
            name: of the scratch folder: `scoring`.
            module: has `main`, the program of the host.
            plan: the line that it is started with.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the host)
        self._mark = uuid.uuid4().hex
        self._scratch = ScratchFolder(name)
        self._process = subprocess.Popen(
            boot_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, _MARK: self._mark, "TMPDIR": str(self._scratch.path)},
            start_new_session=True,  # Ctrl-C is for the main process; the host ends when its pipe closes
        )
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: Inbox = queue.SimpleQueue()
        self._ended = threading.Event()
        self.closed = False
        """True once `close` was called"""
        self._threads = [threading.Thread(target=move, daemon=True) for move in (self._write, self._read)]
        for thread in self._threads:
            thread.start()
        self.send(plan)

    @property
    def pid(self) -> int:
        """Process id of the host."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """True once the host has closed its side."""
        return self._ended.is_set()

    def has_died(self) -> bool:
        """Whether its process is gone; something it started may still hold its pipe open."""
        if self._process.poll() is None:
            return False
        self._ended.set()
        return True

    def was_stopped(self) -> bool:
        """Whether it was stopped by a signal; then it goes on."""
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
            if stat.rpartition(")")[2].split()[0] == "T":
                self._process.send_signal(signal.SIGCONT)
                return True
        return False

    def listen(self) -> Inbox:
        """A fresh inbox for everything that arrives from now on; the one before gets no more."""
        former, self._inbox = self._inbox, queue.SimpleQueue()
        former.put(None)
        if self.ended:
            self._inbox.put(None)
        return self._inbox

    def first_line(self) -> bytes | None:
        """What the host says about its start; None: it ended or is stuck."""
        with contextlib.suppress(queue.Empty):
            return self._inbox.get(timeout=START_S + CLOSE_S)
        return None

    def send(self, lines: bytes) -> None:
        """Hand lines to the host."""
        self._outgoing.put(lines)

    def obituary(self) -> str:
        """How the host ended, with the tail of its log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        code = self._process.poll()
        how = "is stuck" if code is None else f"ended with exit status {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - LOG_TAIL))
        log = self._log.read().decode(errors="replace").strip()
        return f"{how}; {f'its log ends with:{os.linesep}{log}' if log else 'its log is empty'}"

    def close(self) -> None:
        """End the host and everything below it; safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self.send(CLOSE + b"\n")
        self._outgoing.put(None)
        try:
            orderly = self._process.wait(CLOSE_S) == 0
        except subprocess.TimeoutExpired:
            orderly = False
            kill(self._process.pid)
            wait_gone(self._process)
        if not orderly and (left := end_processes(f"{_MARK}={self._mark}")):
            _log.warning("what the workers started could not be ended: %s", ", ".join(left))
        for thread in self._threads:
            thread.join(CLOSE_S)  # what could not be ended may hold the other end of a pipe
        self._log.close()
        self._scratch.remove()

    def _write(self) -> None:
        assert self._process.stdin is not None
        # The host may be gone while lines wait: the reader says so, and what is left has nobody to go to.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            while (lines := self._outgoing.get()) is not None:
                pipe.write(lines)
                pipe.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                self._inbox.put(line)
        self._ended.set()
        self._inbox.put(None)

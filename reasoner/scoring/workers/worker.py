"""What a worker does: one call after the other, in a process that the host may kill at any moment.

A call must not change what the next call sees, of its own source or of another. It gets copies of what it may change
(the fields of a problem, lists, options), a context of its own and random generators with a new seed. When it has left
something behind (a process, a thread, a file in /dev/shm, an exhausted address space, a changed working directory or
another part of `WorkerState`), the worker says what and asks the host to end all that and to replace it.
"""

from __future__ import annotations

import contextvars
import decimal
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasoner.io.redaction import redact_end, redact_start
from reasoner.plugins import reward_api as rewards_api
from reasoner.plugins.reward_api import RewardSource
from reasoner.processes.subreaper import become_subreaper, children, die_with_parent, has_children
from reasoner.records import FailureKind, Problem, Response, Score
from reasoner.scoring.composition import MAX_MESSAGE, InvalidScoreError, Refused, verdict, verdicts
from reasoner.scoring.workers.memory_files import MemoryFiles
from reasoner.scoring.workers.protocol import CREATED, MAX_LINE_BYTES, CallResult, Traits, dump_result, load_task
from reasoner.scoring.workers.worker_state import WorkerState

BACKOFF_S = 0.2
"""seconds before the second attempt of a call that raised; twice as long before each further one"""

MOST_FRAMES = 4
"""of a traceback"""
MAX_TRACE = 2000
"""characters"""
_OURS = (__file__, rewards_api.__file__)
"""between the worker and the source: nothing of it is in a traceback"""


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """A configured reward source, ready to be called."""

    source: RewardSource
    options: Mapping[str, Any]
    timeout_s: float
    """seconds per call, all its attempts together"""
    retries: int
    """further attempts after one that raised"""
    lane: int
    """where it runs (`Traits.lane`)"""

    @property
    def traits(self) -> Traits:
        """What the main process must know of it."""
        return Traits(self.source.granularity, self.lane, self.source.cache, self.timeout_s)


@dataclass(frozen=True, slots=True)
class _Leftovers:
    """What a call may leave behind."""

    state: WorkerState
    files: MemoryFiles
    streams: tuple[tuple[int, int], ...]
    """what standard input, output and error were when the worker began"""

    def look(self) -> str:
        """What it left, in words: processes, threads, files in memory, and what differs in the state of this process.
        What every call may change is set back."""
        self.state.set_back()
        left = self.state.changes()
        if threading.active_count() > 1:
            left += [f"thread {each.name}" for each in threading.enumerate() if each is not threading.main_thread()]
        if has_children():
            left += [f"process {_command(pid)}" for pid in sorted(children(os.getpid()))]
        if _streams() != self.streams:
            left.append("standard input, output or error")
        left += [f"file /dev/shm/{name}" for name in self.files.left()]
        return ", ".join(left)[:MAX_MESSAGE]


def confine(memory_mb: int | None, output: int) -> None:
    """Cut the worker off from its host and limit its memory (None: no limit); called right after the fork.

    Args:
        memory_mb: of address space.
        output: descriptor for what the sources print; it is taken over.
    """
    os.setsid()
    die_with_parent()
    become_subreaper()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    with suppress(AttributeError):  # a plugin may have put something else in its place
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed call flushes nothing
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_mb * 2**20 if hard == resource.RLIM_INFINITY else min(memory_mb * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(channel: socket.socket, jobs: Sequence[ConfiguredSource]) -> None:
    """Answer tasks until the channel is closed, or a call has left something behind."""
    own = os.getpid()
    os.register_at_fork(after_in_child=lambda: _shut(channel))
    files = MemoryFiles(lambda path: channel.sendall(CREATED + path.replace(b"\n", b"?") + b"\n"))
    leftovers = _Leftovers(WorkerState(), files, _streams())
    with channel.makefile("rb") as lines:
        for line in lines:
            task, rewards, payload = line.split(b" ", 2)
            problems, responses = load_task(payload)
            for reward in map(int, rewards.split(b",")):
                # A context of its own: what a call sets in context variables ends with it.
                result = contextvars.copy_context().run(
                    _call, int(task), reward, jobs[reward], problems, responses, leftovers
                )
                if os.getpid() != own:
                    os._exit(0)  # a child that the source forked came back from the call: it must not answer too
                channel.sendall(_bounded(result))
                if result.last:
                    return


def _shut(channel: socket.socket) -> None:
    """In a child that a source forked: it cannot write where the worker answers."""
    descriptor = channel.detach()
    if descriptor >= 0:
        os.close(descriptor)


def _call(
    task: int,
    reward: int,
    job: ConfiguredSource,
    problems: list[Problem],
    responses: list[Response],
    leftovers: _Leftovers,
) -> CallResult:
    _prepare()
    own, start = os.getpid(), time.perf_counter()
    kind: FailureKind | None = None
    scores: tuple[Score | Refused | None, ...] = ()
    message, trace, full = "", "", False
    try:
        try:
            returned = _attempt(job, problems, responses)
        finally:
            leftovers.state.mend()
        scores = _scores(job, returned, len(responses))
    except InvalidScoreError as error:
        kind, message = "invalid", str(error)
    except MemoryError as error:
        # The frames hold what filled the memory; let it go before anything else is allocated.
        traceback.clear_frames(error.__traceback__)
        limit = "scoring.memory_mb" if job.source.limit_memory else "the machine has"
        kind, message, full = "error", f"MemoryError: the call needed more than {limit}", True
    except BaseException as error:  # sys.exit and KeyboardInterrupt too: whatever a source raises is its failure
        kind, message, trace = "error", _described(error), _last_lines(error)
    _flush()
    seconds = time.perf_counter() - start
    left = leftovers.look() if os.getpid() == own and not full else ""
    return CallResult(task, reward, seconds, scores, kind, message, full or bool(left), left, trace)


def _scores(job: ConfiguredSource, returned: object, responses: int) -> tuple[Score | Refused | None, ...]:
    return (verdict(returned),) if job.source.granularity == "response" else tuple(verdicts(returned, responses))


def _attempt(job: ConfiguredSource, problems: list[Problem], responses: list[Response]) -> Any:
    """Call the source, again after a pause when it raised, while attempts and time are left."""
    own, end = os.getpid(), time.monotonic() + job.timeout_s
    attempt, pause = 1, BACKOFF_S
    while True:
        try:
            return _invoke(job, problems, responses)
        except MemoryError:
            raise
        except Exception as error:
            if attempt > job.retries or time.monotonic() + pause >= end or os.getpid() != own:
                if attempt > 1:
                    error.add_note(f"attempt {attempt}")
                raise
        time.sleep(pause)
        attempt, pause = attempt + 1, 2 * pause


def _invoke(job: ConfiguredSource, problems: list[Problem], responses: list[Response]) -> Any:
    """Call the source with what it may change in place: the next call, or the next attempt, sees what was sent."""
    own_problems = [replace(problem, fields=_copied(problem.fields)) for problem in problems]
    options = _copied(job.options)
    match job.source.granularity:
        case "response":
            return job.source(own_problems[0], responses[0], **options)
        case "group":
            return job.source(own_problems[0], list(responses), **options)
        case "batch":
            return job.source(own_problems, list(responses), **options)


def _copied(value: Any) -> Any:
    """`value` with every dictionary and list in it copied, at any depth that JSON was read from."""
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value


def _prepare() -> None:
    """A decimal context of the call's own, and new seeds for the random generators that everybody shares: a source that
    sets them decides about its own call only."""
    decimal.setcontext(decimal.getcontext().copy())
    random.seed(int.from_bytes(os.urandom(8)))  # without an argument it reads 2500 bytes, which takes longer
    if generator := sys.modules.get("numpy.random"):
        generator.seed(random.getrandbits(32))


def _bounded(result: CallResult) -> bytes:
    """The line of a result, or of its failure when the line would be longer than the host takes."""
    line = dump_result(result)
    if len(line) <= MAX_LINE_BYTES:
        return line
    message = f"the scores of one call may take {MAX_LINE_BYTES} bytes together, got {len(line)}"
    return dump_result(replace(result, scores=(), kind="invalid", message=message))


def _command(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        line = b""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()[:60] or f"{pid} (ended, not waited for)"


def _streams() -> tuple[tuple[int, int], ...]:
    """What standard input, output and error are; shorter where one of them is closed."""
    found = []
    for stream in (0, 1, 2):
        with suppress(OSError):
            status = os.fstat(stream)
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def _flush() -> None:
    """What the call printed is for its own log entry."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever the call has put there, or closed
            stream.flush()


def _last_lines(error: BaseException) -> str:
    """The end of the traceback: the last frames, and the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in _OURS]
    lines = traceback.format_list(frames[-MOST_FRAMES:])
    return redact_end(f"{''.join(lines)}{type(error).__name__}: {redact_start(str(error), MAX_MESSAGE)}", MAX_TRACE)


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {redact_start(str(error), MAX_MESSAGE)}{where}{redact_start(notes, MAX_MESSAGE)}"

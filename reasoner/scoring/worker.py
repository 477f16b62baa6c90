"""What a worker does: one call after the other, in a process that the host may kill at any moment.

A call must not change what the next call sees: when it has left something behind (a process, a thread, an exhausted
address space, a closed standard stream), the worker asks the host to end all that and to replace it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner.reaping import become_subreaper, die_with_parent, has_children
from reasoner.records import FailureKind, Problem, Response, Score
from reasoner.rewards_api import RewardSource
from reasoner.scoring.compose import MAX_MESSAGE, InvalidScoreError, Refused, verdict, verdicts
from reasoner.scoring.wire import MAX_LINE_BYTES, Result, Traits, dump_result, load_task
from reasoner.secrets import redact_start

BACKOFF_S = 0.2
"""seconds before the second attempt of a call that raised; twice as long before each further one"""

_NOWHERE = os.stat(os.devnull).st_rdev  # noqa: PTH116


@dataclass(frozen=True, slots=True)
class Job:
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
        return Traits(self.source.granularity, self.lane, self.source.cache)


def confine(memory_mb: int | None) -> None:
    """Cut the worker off from its host and limit its memory (None: no limit); called right after the fork."""
    os.setsid()
    die_with_parent()
    become_subreaper()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_mb * 2**20 if hard == resource.RLIM_INFINITY else min(memory_mb * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(channel: socket.socket, jobs: Sequence[Job]) -> None:
    """Answer tasks until the channel is closed."""
    own = os.getpid()
    with channel.makefile("rb") as lines:
        for line in lines:
            task, rewards, payload = line.split(b" ", 2)
            problems, responses = load_task(payload)
            for reward in map(int, rewards.split(b",")):
                result = _call(int(task), reward, jobs[reward], problems, responses)
                if os.getpid() != own:
                    os._exit(0)  # a child that the source forked came back from the call: it must not answer too
                channel.sendall(_bounded(result))


def _call(task: int, reward: int, job: Job, problems: list[Problem], responses: list[Response]) -> Result:
    own, start = os.getpid(), time.perf_counter()
    kind: FailureKind | None = None
    scores: tuple[Score | Refused | None, ...] = ()
    message, full = "", False
    try:
        scores = _scores(job, problems, responses)
    except InvalidScoreError as error:
        kind, message = "invalid", str(error)
    except MemoryError as error:
        # The frames hold what filled the memory; let it go before anything else is allocated.
        traceback.clear_frames(error.__traceback__)
        limit = "scoring.memory_mb" if job.source.limit_memory else "the machine has"
        kind, message, full = "error", f"MemoryError: the call needed more than {limit}", True
    except BaseException as error:  # sys.exit and KeyboardInterrupt too: whatever a source raises is its failure
        kind, message = "error", _described(error)
    seconds = time.perf_counter() - start
    last = os.getpid() == own and (full or _left_behind())
    return Result(task, reward, seconds, scores, kind, message, last)


def _scores(job: Job, problems: list[Problem], responses: list[Response]) -> tuple[Score | Refused | None, ...]:
    match job.source.granularity:
        case "response":
            return (verdict(_attempt(job, problems[0], responses[0])),)
        case "group":
            return tuple(verdicts(_attempt(job, problems[0], responses), len(responses)))
        case "batch":
            return tuple(verdicts(_attempt(job, problems, responses), len(responses)))


def _attempt(job: Job, problem: Problem | list[Problem], response: Response | list[Response]) -> Any:
    """Call the source, again after a pause when it raised, while attempts and time are left."""
    own, end = os.getpid(), time.monotonic() + job.timeout_s
    attempt, pause = 1, BACKOFF_S
    while True:
        try:
            return job.source(problem, response, **job.options)
        except MemoryError:
            raise
        except Exception as error:
            if attempt > job.retries or time.monotonic() + pause >= end or os.getpid() != own:
                if attempt > 1:
                    error.add_note(f"attempt {attempt}")
                raise
        time.sleep(pause)
        attempt, pause = attempt + 1, 2 * pause


def _bounded(result: Result) -> bytes:
    """The line of a result, or of its failure when the line would be longer than the host takes."""
    line = dump_result(result)
    if len(line) <= MAX_LINE_BYTES:
        return line
    message = f"the scores of one call may take {MAX_LINE_BYTES} bytes together, got {len(line)}"
    return dump_result(replace(result, scores=(), kind="invalid", message=message))


def _left_behind() -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return has_children() or threading.active_count() > 1 or not _streams_intact()


def _streams_intact() -> bool:
    try:
        return all(os.fstat(stream).st_rdev == _NOWHERE for stream in (0, 1, 2))
    except OSError:
        return False


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {redact_start(str(error), MAX_MESSAGE)}{where}{redact_start(notes, MAX_MESSAGE)}"

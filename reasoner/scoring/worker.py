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
from dataclasses import dataclass
from typing import Any

from reasoner.records import FailureKind, Problem, Response
from reasoner.rewards_api import RewardSource
from reasoner.scoring.compose import InvalidScoreError, verdict
from reasoner.scoring.reaping import become_subreaper, die_with_parent, has_children
from reasoner.scoring.wire import Result, dump_result, load_task

MAX_MESSAGE = 2000
"""characters of an error message that are kept"""

_NOWHERE = os.stat(os.devnull).st_rdev  # noqa: PTH116


@dataclass(frozen=True, slots=True)
class Job:
    """A configured reward source, ready to be called."""

    source: RewardSource
    options: Mapping[str, Any]
    timeout_s: float
    """seconds per call"""


def confine(memory_mb: int) -> None:
    """Cut the worker off from its host and limit it; called right after the fork."""
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
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_mb * 2**20 if hard == resource.RLIM_INFINITY else min(memory_mb * 2**20, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(channel: socket.socket, jobs: Sequence[Job]) -> None:
    """Answer tasks until the channel is closed."""
    own = os.getpid()
    with channel.makefile("rb") as lines:
        for line in lines:
            task, rewards, payload = line.split(b" ", 2)
            problem, response = load_task(payload)
            for reward in map(int, rewards.split(b",")):
                result = _call(int(task), reward, jobs[reward], problem, response)
                if os.getpid() != own:
                    os._exit(0)  # a child that the source forked came back from the call: it must not answer too
                channel.sendall(dump_result(result))


def _call(task: int, reward: int, job: Job, problem: Problem, response: Response) -> Result:
    own, start = os.getpid(), time.perf_counter()
    kind: FailureKind | None = None
    score, message, full = None, "", False
    try:
        score = verdict(job.source(problem, response, **job.options))
    except InvalidScoreError as error:
        kind, message = "invalid", str(error)
    except MemoryError as error:
        # The frames hold what filled the memory; let it go before anything else is allocated.
        traceback.clear_frames(error.__traceback__)
        kind, message, full = "error", "MemoryError: the call needed more than scoring.memory_mb", True
    except BaseException as error:  # sys.exit and KeyboardInterrupt too: whatever a source raises is its failure
        kind, message = "error", _described(error)
    seconds = time.perf_counter() - start
    last = os.getpid() == own and (full or _left_behind())
    if score is None:
        return Result(task, reward, seconds, kind=kind, message=message, last=last)
    return Result(task, reward, seconds, score.value, dict(score.parts), score.note, last=last)


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
    return f"{type(error).__name__}: {str(error)[:MAX_MESSAGE]}{where}"

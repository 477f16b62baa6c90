"""What a worker of the scoring host does: one call after the other, in a process that the host may kill at any moment.

A call must not change what the next call sees, of its own source or of another. It gets copies of what it may change
(the fields of a problem, lists, options), a context of its own and random generators with a new seed. When it has left
something behind (a process, a thread, a file in /dev/shm, an exhausted address space, a changed working directory or
another part of `WorkerState`), the worker says what and asks the host to end all that and to replace it.
"""

from __future__ import annotations

import contextvars
import os
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner.plugins import reward_api as rewards_api
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import FailureKind, Problem, Response, Score
from reasoner.scoring.composition import InvalidScoreError, Refused, verdict, verdicts
from reasoner.scoring.workers.protocol import CallResult, Traits, dump_result, load_task
from reasoner.workers.calls import copied, described, flush, last_lines, open_channel, prepare_call
from reasoner.workers.confinement import Leftovers
from reasoner.workers.lines import MAX_LINE_BYTES

BACKOFF_S = 0.2
"""seconds before the second attempt of a call that raised; twice as long before each further one"""

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


def serve(channel: socket.socket, jobs: Sequence[ConfiguredSource]) -> None:
    """Answer tasks until the channel is closed, or a call has left something behind."""
    own = os.getpid()
    leftovers = Leftovers.of_now(open_channel(channel))
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
                channel.sendall(_encode_bounded(result))
                if result.last:
                    return


def _call(
    task: int,
    reward: int,
    job: ConfiguredSource,
    problems: list[Problem],
    responses: list[Response],
    leftovers: Leftovers,
) -> CallResult:
    prepare_call()
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
        kind, message, trace = "error", described(error), last_lines(error, _OURS)
    flush()
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
    own_problems = [replace(problem, fields=copied(problem.fields)) for problem in problems]
    options = copied(job.options)
    match job.source.granularity:
        case "response":
            return job.source(own_problems[0], responses[0], **options)
        case "group":
            return job.source(own_problems[0], list(responses), **options)
        case "batch":
            return job.source(own_problems, list(responses), **options)


def _encode_bounded(result: CallResult) -> bytes:
    """The line of a result, or of its failure when the line would be longer than the host takes."""
    line = dump_result(result)
    if len(line) <= MAX_LINE_BYTES:
        return line
    message = f"the scores of one call may take {MAX_LINE_BYTES} bytes together, got {len(line)}"
    return dump_result(replace(result, scores=(), kind="invalid", message=message))

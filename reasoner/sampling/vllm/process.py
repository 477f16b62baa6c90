"""Starts, watches and ends the process that holds a vLLM engine."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import signal
import subprocess
import time
from collections import deque
from multiprocessing import Pipe
from pathlib import Path
from threading import Lock, Thread

import psutil

from reasoner.errors import SamplerError
from reasoner.io.redaction import redact_end
from reasoner.processes.child_python import SAFE_PATH, module_command
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.processes.subreaper import wait_gone
from reasoner.sampling.base import Completed
from reasoner.sampling.vllm.messages import (
    Close,
    Done,
    EngineReady,
    Reply,
    Request,
    RequestFailed,
    StartEngine,
    Value,
    Working,
)

_log = logging.getLogger(__name__)

_HOST_MODULE = "reasoner.sampling.vllm.host"
_STALLED_AFTER = 60.0
"""seconds without processor time or reading after which a start counts as hung"""
_START_LIMIT = 1800.0
"""seconds that a start may take, whatever it does"""
_ATTEMPTS = 2
_CLOSE_WITHIN = 10.0
"""seconds for a polite end before the host is killed"""
PATIENCE_S = 600.0
"""seconds without a token after which an engine that samples counts as hung; without any work, one that was asked for
something else"""
_LOOK_EVERY = 5.0
"""seconds between looks at that, and at whether it works at what it was asked for"""
_ANSWER_LIMIT = 3600.0
"""seconds that an answer may take, whatever the host does"""
_LOG_TAIL = 3000
"""characters of the host's log in an error"""


class StartHungError(SamplerError):
    """The engine did nothing for too long while it started."""


class EngineProcess:
    """The host, started and ready. `call`, `send` and `completed` speak to it; `close` ends it whatever state it is in.

    Raises:
        SamplerError: vLLM did not start, twice if it hung; the message ends with what it printed.
    """

    def __init__(self, start: StartEngine, log: Path) -> None:
        self._log_file = log
        self._replies: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()
        self._completed: deque[Completed] = deque()
        self._sending = Lock()
        self._heard = time.monotonic()
        """when anything was last said, by either side"""
        self._is_calling = False
        self._asked = ""
        """what was last said to it"""
        self._reader = Thread(target=self._read, name="replies of vLLM", daemon=True)
        self.ready = self._launch(start)
        self._reader.start()

    def _launch(self, start: StartEngine) -> EngineReady:
        for attempt in range(1, _ATTEMPTS + 1):
            self._spawn(start)
            try:
                return self._wait_until_ready()
            except StartHungError as error:
                self.close()
                if attempt == _ATTEMPTS:
                    raise
                _log.warning("%s; starting it again", error)
            except BaseException:
                self.close()
                raise
        raise AssertionError("unreachable")

    def _spawn(self, start: StartEngine) -> None:
        self._scratch = ScratchFolder("vllm")
        self._connection, child_end = Pipe()
        with child_end, self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                module_command(_HOST_MODULE, str(child_end.fileno())),
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=host_environment(start, self._scratch.path),
                # Ctrl-C in the terminal is for the run, which then ends this process
                start_new_session=True,
            )
        self._connection.send(start)

    def _wait_until_ready(self) -> EngineReady:
        """One of five starts in a busy process was seen to hang for ever: a start that does nothing is ended."""
        started = advanced = time.monotonic()
        done_before = 0.0
        while not self._connection.poll(1.0):
            now, done = time.monotonic(), _work_done(self._process.pid)
            if done > done_before:
                advanced, done_before = now, done
            if now - advanced > _STALLED_AFTER or now - started > _START_LIMIT:
                self._dump_stacks()
                raise StartHungError(f"vLLM did not start within {now - started:.0f} s.{self._tail()}")
        try:
            reply: Reply = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        if isinstance(reply, RequestFailed):
            raise self._failed(reply)
        if not isinstance(reply, Done) or not isinstance(reply.value, EngineReady):
            raise SamplerError(f"vLLM started with {reply!r}")
        return reply.value

    @property
    def is_open(self) -> bool:
        """Whether `close` is still to be called."""
        return not self._connection.closed

    def send(self, request: Request) -> None:
        """Say something that has no reply of its own, or whose reply is read later; from any thread.

        Raises:
            SamplerError: the host is closed or gone.
        """
        if not self.is_open:
            raise SamplerError(f"this sampler is closed, and was asked for {type(request).__name__}; open another")
        self._heard, self._asked = time.monotonic(), type(request).__name__
        try:
            with self._sending:
                self._connection.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def call(self, request: Request) -> Value:
        """The answer to a request; what is completed meanwhile is read later.

        Raises:
            SamplerError: the request failed, or the host is gone.
        """
        self.send(request)
        return self.reply()

    @property
    def has_replied(self) -> bool:
        """Whether there is something to be read of what it says."""
        return not self._replies.empty()

    def reply(self) -> Value:
        """The answer to the last request that has one, where `send` sent it.

        Raises:
            SamplerError: as `call`.
        """
        self._is_calling = True
        while not isinstance(reply := self._reply_in_time(), Done):
            if isinstance(reply, Completed):
                self._completed.append(reply)
            else:
                self._raise_unless_working(reply)
        self._is_calling = False
        return reply.value

    def _reply_in_time(self) -> Reply | Exception:
        """What the host says next, to a call: it works as long as it takes processor time or reads.

        Raises:
            SamplerError: it does nothing for too long, or takes longer than anything can.
        """
        asked = advanced = time.monotonic()
        done_before = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                return self._replies.get(timeout=_LOOK_EVERY)
            now, done = time.monotonic(), _work_done(self._process.pid)
            if done != done_before:
                advanced, done_before = now, done
            if now - advanced > PATIENCE_S or now - asked > _ANSWER_LIMIT:
                self._dump_stacks()
                did = (
                    f"did nothing for the last {now - advanced:.0f} s: it hangs"
                    if now - advanced > PATIENCE_S
                    else f"still works at it, longer than anything may take ({_ANSWER_LIMIT:.0f} s)"
                )
                raise SamplerError(
                    f"vLLM has not answered {self._asked} for {now - asked:.0f} s, and {did}. The stacks of its "
                    f"threads are in {self._log_file}; resume the run.{self._tail()}"
                )

    def completed(self, timeout_s: float | None) -> Completed | None:
        """The next request that is complete; None: none is after so many seconds.

        Raises:
            SamplerError: the engine failed, is gone, or has made no token for too long.
        """
        ends = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not self._completed:
            try:
                reply = self._replies.get(timeout=max(0.0, min(ends - time.monotonic(), _LOOK_EVERY)))
            except queue.Empty:
                self._check_progress()
                if time.monotonic() >= ends:
                    return None
                continue
            if isinstance(reply, Completed):
                self._completed.append(reply)
            else:
                self._raise_unless_working(reply)
        return self._completed.popleft()

    def _check_progress(self) -> None:
        idle = time.monotonic() - self._heard
        if idle > PATIENCE_S:
            self._dump_stacks()
            raise SamplerError(
                f"vLLM has made no token for {idle:.0f} s while it was sampling: it hangs. The stacks of its threads "
                f"are in {self._log_file}; resume the run.{self._tail()}"
            )

    def _raise_unless_working(self, reply: Reply | Exception) -> None:
        if isinstance(reply, EOFError | OSError):
            self._replies.put(reply)  # it is said again to whoever asks next
            raise self._gone() from reply
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, RequestFailed):
            self._is_calling = False
            raise self._failed(reply)
        if not isinstance(reply, Working):
            raise SamplerError(f"vLLM says {reply!r} to nothing that it was asked; this is a bug")

    def _failed(self, reply: RequestFailed) -> SamplerError:
        if not reply.is_traceback:
            return SamplerError(f"{reply.message} (vLLM's log is {self._log_file})")
        return SamplerError(f"vLLM failed (its log is {self._log_file}):\n{reply.message}")

    def _read(self) -> None:
        """Read all that the host says, so that neither side ever waits for the other to read."""
        try:
            while True:
                reply = self._connection.recv()
                self._heard = time.monotonic()
                self._replies.put(reply)
        except Exception as error:  # told to the thread that waits
            self._replies.put(error)

    def close(self, *, is_idle: bool = False) -> None:
        """End the host and everything that it started. Safe to call twice.

        Args:
            is_idle: nothing runs, so that it can be asked to end; a host that is busy is killed.
        """
        if not self.is_open:
            return
        if is_idle and not self._is_calling:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._connection.send(Close())
                self._process.wait(_CLOSE_WITHIN)
        others: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            others = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        wait_gone(self._process)
        # vLLM's workers end by themselves without their host, and the memory that they shared is removed
        psutil.wait_procs(others, _CLOSE_WITHIN)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._reader.is_alive():
            self._reader.join()  # nobody writes any more
        self._connection.close()
        self._scratch.remove()

    def _gone(self) -> SamplerError:
        try:
            code = self._process.wait(_CLOSE_WITHIN)
        except subprocess.TimeoutExpired:
            return SamplerError(f"the vLLM process closed its connection and has not ended.{self._tail()}")
        cause = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        hint = " (the system ends processes like this when memory runs out)" if code == -signal.SIGKILL else ""
        return SamplerError(f"the vLLM process ended {cause}{hint}.{self._tail()}")

    def _dump_stacks(self) -> None:
        """Have the host write the stacks of its threads into the log."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(1.0)

    def _tail(self) -> str:
        text = redact_end(self._log_file.read_text(errors="replace"), _LOG_TAIL)
        return f" The last lines of {self._log_file}:\n{text}"


def host_environment(start: StartEngine, scratch: Path) -> dict[str, str]:
    """The environment of the host; this process keeps its own.

    Args:
        scratch: folder for temporary files: vLLM leaves some of its own behind.
    """
    ours = {
        # the engine core in the host itself: with its own process the same seed gives other responses
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # not installed with every build, and not needed without top-k and top-p
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
        **SAFE_PATH,
    }
    if start.devices:
        ours["CUDA_VISIBLE_DEVICES"] = start.devices
    if start.device == "cpu":
        # vLLM compiles two small functions of its sampler at the first draw, which takes longer than they ever save and
        # needs a C++ compiler on the machine
        ours["TORCHDYNAMO_DISABLE"] = "1"
        threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
        ours["OMP_NUM_THREADS"] = threads
        if start.tensor_parallel > 1:
            ours["OMP_NUM_THREADS"] = str(max(1, int(threads.partition(",")[0]) // start.tensor_parallel))
            ours["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # otherwise each worker wants a NUMA node of its own
    if start.device == "cuda" and start.dtype == "float32":
        # attention in float32 is Triton's, which multiplies in TF32 unless it is told: a gap of 1e-3 would be its own
        ours["TRITON_F32_DEFAULT"] = "ieee"
    # under torchrun they say that somebody else keeps the store of every process group: vLLM's own would wait for ever
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    return inherited | ours


def _work_done(pid: int) -> float:
    """Processor seconds of a process and its children plus MiB that it read: grows as long as something happens. What
    cannot be read is left out: containers often hide what a process has read."""
    total, processes = 0.0, list[psutil.Process]()
    with contextlib.suppress(psutil.Error):
        processes.append(host := psutil.Process(pid))
        processes += host.children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            times = process.cpu_times()
            total += round(times.user + times.system, 1)
        with contextlib.suppress(psutil.Error, OSError):
            total += process.io_counters().read_bytes // 2**20
    return total

"""A plugin whose reward sources leave something behind, or lay hands on the process that runs them."""

import asyncio
import builtins
import contextlib
import contextvars
import decimal
import faulthandler
import gc
import json
import locale
import logging
import math
import os
import random
import resource
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from reasoner import Problem, Response, RewardSource, Score, hookimpl, reward

LIFE_S = 30.0
"""seconds after which what hangs ends by itself: a broken service must not ruin the machine of its tester"""


def spin() -> None:
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        pass


def leave_thread() -> None:
    threading.Thread(target=spin, daemon=True).start()


CONTEXT = contextvars.ContextVar("CONTEXT", default="")
SHARED = "reasoner-scoring-test-"
"""start of the names of the files in /dev/shm"""


def closed_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


def many_files() -> None:
    for _ in range(100):
        os.open(os.devnull, os.O_RDONLY)


def other_builtin() -> None:
    builtins.len = lambda each: 7


def other_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


SET_BACK: dict[str, Callable[[], object]] = {
    "timer": lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 100.0),
    "alarm handler": lambda: signal.signal(signal.SIGALRM, lambda *_: None),
    "precision": lambda: setattr(decimal.getcontext(), "prec", 3),
    "loop": closed_loop,
    "context": lambda: CONTEXT.set("x"),
}
"""what a call may change in its process, because it is set back"""
CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "directory": (lambda: os.chdir("/"), "the working directory"),
    "variable": (lambda: os.environ.update(REASONER_LEFT="x"), "environment variables (REASONER_LEFT)"),
    "no variable": (lambda: os.environ.pop("PATH"), "environment variables (PATH)"),
    "umask": (lambda: os.umask(0o123), "the umask"),
    "mask": (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}), "blocked signals"),
    "limit": (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)), "resource limits"),
    "nice": (lambda: os.nice(3), "priority or processors"),
    "processor": (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}), "priority or processors"),
    "trace": (lambda: sys.settrace(lambda *_: None), "trace or profile functions"),
    "thread trace": (lambda: threading.settrace(lambda *_: None), "trace or profile functions"),
    "new builtin": (lambda: setattr(builtins, "handy", 1), "functions of modules (builtins.handy)"),
    "other builtin": (other_builtin, "functions of modules (builtins.len)"),
    "other json": (lambda: setattr(json, "dumps", repr), "functions of modules (json.dumps)"),
    "other encoder": (lambda: setattr(json.JSONEncoder, "default", repr), "functions of modules (JSONEncoder.default)"),
    "no isclose": (lambda: delattr(math, "isclose"), "functions of modules (math.isclose)"),
    "path": (lambda: sys.path.insert(0, "/"), "sys.path"),
    "stream": (lambda: setattr(sys, "stdout", None), "the streams of sys"),
    "hook": (lambda: setattr(sys, "excepthook", print), "hooks of sys or threading"),
    "recursion": (lambda: sys.setrecursionlimit(5000), "the recursion limit"),
    "digits": (lambda: sys.set_int_max_str_digits(0), "the limit of digits"),
    "warnings": (lambda: warnings.filterwarnings("error", "odd"), "warning filters"),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"), "the locale"),
    "zone": (other_zone, "environment variables (TZ), the time zone"),
    "collector": (gc.disable, "the garbage collector"),
    "default timeout": (lambda: socket.setdefaulttimeout(3.0), "the default timeout of sockets"),
    "fault handler": (lambda: faulthandler.enable(open(os.devnull)), "the fault handler"),  # noqa: PTH123, SIM115
    "logger": (lambda: logging.disable(), "the root logger"),
    "files": (many_files, "more than 64 open files"),
    "thread": (leave_thread, "thread Thread-1 (spin)"),
}
"""what costs the worker -> how it is named"""


def state() -> Score:
    """The process as a call finds it."""
    try:
        number = decimal.Decimal(1) / 3
        loop = asyncio.get_event_loop_policy().get_event_loop().is_closed()
        asyncio.get_event_loop_policy().get_event_loop().close()
    except RuntimeError:
        loop = False
    os.umask(umask := os.umask(0))
    result = {
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "umask": umask,
        "signals": [str(signal.getsignal(each)) for each in range(1, 32)],
        "blocked": str(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [signal.getitimer(each) for each in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)],
        "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)],
        "nice": [os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
        "trace": str((sys.gettrace(), threading.gettrace())),
        "functions": str((sorted(vars(builtins)), len, json.dumps, hasattr(math, "isclose"), sys.excepthook)),
        "encoder": str(json.JSONEncoder.default.__qualname__),
        "path": sys.path,
        "stream": sys.stdout is None,
        "numbers": [sys.getrecursionlimit(), sys.get_int_max_str_digits(), str(number)],
        "warnings": str(warnings.filters),
        "world": [locale.setlocale(locale.LC_ALL), time.tzname, gc.isenabled(), socket.getdefaulttimeout()],
        "logging": [faulthandler.is_enabled(), logging.root.manager.disable, CONTEXT.get(), loop],
        "files": len(os.listdir("/proc/self/fd")) < 30,  # noqa: PTH208
        "threads": threading.active_count(),
    }
    return Score(1.0, {"state": json.dumps(result, default=str)})


def channel() -> int:
    """The socket to the host."""
    (result,) = (each for each in range(3, 64) if _is_socket(each))
    return result


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def forge(**fields: Any) -> float:
    """Answer for the worker: the current call's result, but for these fields."""
    frame = sys._getframe()
    while frame.f_code.co_name != "_call":
        assert frame.f_back is not None
        frame = frame.f_back
    good = {"task": frame.f_locals["task"], "reward": frame.f_locals["reward"], "seconds": 0.0, "kind": None}
    result = {**good, "message": "", "last": False, "left": "", "scores": [[1.0, {}, ""]], **fields}
    os.write(channel(), json.dumps(result).encode() + b"\n")
    return 1.0


def child_writes() -> float:
    """The channel is not there in a child."""
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.write(channel(), b"garbage\n")
        os._exit(0)
    os.waitpid(pid, 0)
    return 1.0


def flood() -> float:
    for _ in range(100):
        os.write(channel(), b"x" * 2**16)
    return 1.0


def write_to_main() -> None:
    """Into the pipe that the host answers with."""
    for each in Path(f"/proc/{os.getppid()}/fdinfo").iterdir():
        descriptor = each.parent.parent / "fd" / each.name
        if each.read_text().split()[3].endswith("1") and "pipe" in str(descriptor.readlink()):
            descriptor.write_bytes(b"garbage\n")
    spin()


def stop_parent() -> float:
    os.kill(os.getppid(), signal.SIGSTOP)
    return 1.0


def in_memory(name: str) -> Path:
    path = Path("/dev/shm") / (SHARED + name)
    path.write_bytes(b"x")
    return path


def folder_in_memory() -> None:
    (Path("/dev/shm") / (SHARED + "folder")).mkdir()
    in_memory("folder/file")


def hang_with(make: Callable[[], object]) -> None:
    make()
    spin()


def temporary() -> Score:
    folder = tempfile.mkdtemp()
    Path(folder, "file").touch()
    return Score(1.0, {"folder": folder})


def descriptors() -> Score:
    links = [Path(f"/proc/self/fd/{each}") for each in range(64)]
    return Score(1.0, {"links": sorted(str(each.readlink()).partition(":")[0] for each in links if each.is_symlink())})


def well(act: Callable[[], object]) -> Callable[[], float]:
    """Do it, and give 1.0."""

    def scored() -> float:
        act()
        return 1.0

    return scored


ACTIONS: dict[str, Callable[[], Any]] = {
    "good": lambda: 1.0,
    "pid": lambda: Score(1.0, {"pid": os.getpid()}),
    "few files": well(lambda: os.open(os.devnull, os.O_RDONLY)),
    "state": state,
    **{name: well(make) for name, make in SET_BACK.items()},
    **{name: well(make) for name, (make, _) in CHANGES.items()},
    "seed": well(lambda: random.seed(7)),
    "draw": random.random,
    "child writes": child_writes,
    "descriptors": descriptors,
    "flood": flood,
    "half a line": lambda: float(os.write(channel(), b"{")),
    "forge wrong task": lambda: forge(task=10**6),
    "forge text": lambda: forge(scores=[["1.0", {}, ""]]),
    "forge nan": lambda: forge(scores=[[float("nan"), {}, ""]]),
    "forge parts": lambda: forge(scores=[[1.0, [], ""]]),
    "forge seconds": lambda: forge(seconds="long"),
    "forge kind": lambda: forge(kind="nothing", scores=[]),
    "forge two": lambda: forge(scores=[[1.0, {}, ""]] * 2),
    "forge none": lambda: forge(scores=[]),
    "write to main": write_to_main,
    "stop parent": stop_parent,
    "memory file": well(lambda: in_memory("file")),
    "memory folder": well(folder_in_memory),
    "shared memory": well(lambda: shared_memory.SharedMemory(SHARED + "segment", create=True, size=64)),
    "memory file and hang": lambda: hang_with(lambda: in_memory("hang")),
    "memory file and exit": lambda: os._exit(in_memory("exit").exists()),
    "tidy": well(lambda: in_memory("tidy").unlink()),
    "temporary": temporary,
    "temporary and hang": lambda: hang_with(temporary),
}


@reward("untidy", timeout_s=1.0, cache=False)
def untidy(problem: Problem, response: Response) -> Any:
    """Does what the response says."""
    return ACTIONS[response.text]()


@reward("vandal", cache=False, retries=1)
def vandal(problem: Problem, response: Response, *, words: list[str] = ["a"]) -> Score:  # noqa: B006
    """Says what it got, then changes all that in place; the first attempt for `again` raises."""
    got = json.dumps([problem.fields, words])
    rows = problem.fields["rows"]
    rows[0]["x"].append(9)
    rows.clear()
    problem.fields["new"] = 1  # type: ignore[index]
    words.append("b")
    if response.text == "again" and not TRIED:
        TRIED.append(True)
        raise LookupError("once more")
    return Score(1.0, {"got": got})


TRIED: list[bool] = []


@reward("thief", cache=False, granularity="group")
def thief(problem: Problem, responses: list[Response]) -> list[float]:
    """Takes the responses away."""
    count = len(responses)
    responses.clear()
    return [float(count)] * count


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    return [untidy, vandal, thief]

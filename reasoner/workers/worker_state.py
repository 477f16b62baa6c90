"""What a call may leave changed in its worker: looked at before the first call, and again after every call.

A worker makes one call after the other, of several sources, in one process. Whatever a call changes in that process
would reach the next call. Signal handlers, timers, the event loop and the decimal context are set back, because sources
with time limits and exact arithmetic change them in every call. A worker in which anything else differs is replaced by
a fresh one, and the source is named: setting that back could break a source that sets it once, in its first call.

A look costs about 40 microseconds. The values of module globals beyond a few modules that everybody uses, and what
libraries keep outside of Python, are not looked at.
"""

from __future__ import annotations

import asyncio
import builtins
import faulthandler
import gc
import json
import locale
import logging
import math
import os
import random
import re
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

MAX_OPEN_FILES = 64
"""file descriptors that calls may leave open in a worker: a connection or a word list that is kept is no leak"""

_SIGNALS = (
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGINT, signal.SIGTERM),
    *(signal.SIGCHLD, signal.SIGUSR1),
)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_STACK,
)
_WATCHED = (builtins, json, json.JSONDecoder, json.JSONEncoder, math, os, random, re, time)
"""modules and classes whose functions must stay what they are: a patched `json.dumps` would be everybody's"""


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (a Path costs more than the call)
    except FileNotFoundError:
        return None


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _environment() -> dict[bytes, bytes]:
    # Decoding every variable, as a copy of `os.environ` does, would cost more than all other probes together.
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _tracing() -> tuple[Any, ...]:
    tools: list[str | None] = []
    if sys.version_info >= (3, 12):
        tools = [sys.monitoring.get_tool(tool) for tool in range(6)]
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile(), tools


def _event_loop_policy() -> type[asyncio.AbstractEventLoopPolicy] | None:
    """None: from Python 3.14 on there is no policy to set."""
    return type(asyncio.get_event_loop_policy()) if sys.version_info < (3, 14) else None


def _logging() -> tuple[Any, ...]:
    return logging.root.level, logging.root.manager.disable, list(logging.root.handlers), list(logging.root.filters)


_PROBES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "the working directory": _working_directory,
        "environment variables": _environment,
        "the umask": _umask,
        "user or group": lambda: (os.getresuid(), os.getresgid()),
        "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "resource limits": lambda: list(map(resource.getrlimit, _LIMITS)),
        "priority or processors": lambda: (
            os.getpriority(os.PRIO_PROCESS, 0),
            os.sched_getaffinity(0),
            os.sched_getscheduler(0),
        ),
        "trace or profile functions": _tracing,
        "sys.path": lambda: list(sys.path),
        "the streams of sys": lambda: (sys.stdin, sys.stdout, sys.stderr),
        "hooks of sys or threading": lambda: (
            sys.excepthook,
            sys.displayhook,
            sys.unraisablehook,
            threading.excepthook,
        ),
        "the recursion limit": sys.getrecursionlimit,
        "the limit of digits": sys.get_int_max_str_digits,
        "the switch interval": sys.getswitchinterval,
        "warning filters": lambda: list(warnings.filters),
        "the locale": lambda: locale.setlocale(locale.LC_ALL),
        "the time zone": lambda: (time.tzname, time.timezone),
        "the garbage collector": lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug(), list(gc.callbacks)),
        "the event loop policy": _event_loop_policy,
        "the default timeout of sockets": socket.getdefaulttimeout,
        "the fault handler": faulthandler.is_enabled,
        "the root logger": _logging,
    }
)
_IMPORTS_CHANGE = ("environment variables", "sys.path", "the recursion limit", "the limit of digits", "warning filters")
"""what importing a library changes in passing, as numpy and sympy do: no fault of a call that imports one"""


class WorkerState:
    """The state of this process when it was made, to compare with."""

    def __init__(self) -> None:
        self._before = _look()
        self._handlers = [signal.getsignal(signal_) for signal_ in _SIGNALS]
        self._policy = _event_loop_policy()
        self._modules = len(sys.modules)
        self._watched = [_Watched(watched) for watched in _WATCHED]
        self._patched: list[str] = []
        self._descriptor = _next_descriptor()

    def mend(self) -> None:
        """Put functions of modules back that the call has replaced: the worker needs them to answer."""
        self._patched = [name for watched in self._watched for name in watched.mend()]

    def set_back(self) -> None:
        """Set back what calls may change: timers, signal handlers, the event loop."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0.0)
        signal.set_wakeup_fd(-1)
        for number, before in zip(_SIGNALS, self._handlers, strict=True):
            if signal.getsignal(number) is not before:
                signal.signal(number, before or signal.SIG_DFL)
        if self._policy is None:
            asyncio.set_event_loop(None)
        else:
            asyncio.set_event_loop_policy(self._policy())

    def changes(self) -> list[str]:
        """What differs now, in words; what an import changed in passing is the state to compare with from here on."""
        now = _look()
        if self._modules != len(sys.modules):
            self._modules = len(sys.modules)
            self._before |= {name: now[name] for name in _IMPORTS_CHANGE}
        changed = [name for name in _PROBES if now[name] != self._before[name]] if now != self._before else []
        changed = [self._in_detail(name, now[name]) for name in changed]
        if self._patched:
            changed.append(f"functions of modules ({', '.join(self._patched)})")
        if _next_descriptor() - self._descriptor > MAX_OPEN_FILES:
            changed.append(f"more than {MAX_OPEN_FILES} open files")
        return changed

    def _in_detail(self, name: str, now: Any) -> str:
        if not isinstance(now, dict):
            return name
        before = self._before[name]
        names = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        return f"{name} ({', '.join(os.fsdecode(name) for name in names)})"


class _Watched:
    """A module or class whose functions must stay. Its other values may change: libraries set some of them."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._names = owner, frozenset(vars(owner))
        self._functions = {name: value for name, value in vars(owner).items() if callable(value)}
        self._values = tuple(vars(owner).values())

    def mend(self) -> list[str]:
        """Put back what was replaced, and name it. New names count among the builtins, which every module sees;
        elsewhere they are submodules that were imported."""
        now = vars(self._owner)
        if tuple(now.values()) == self._values:  # nearly always: compares by identity first, without a loop in Python
            return []
        others = [name for name, value in self._functions.items() if now.get(name, _GONE) is not value]
        added = now.keys() - self._names if self._owner is builtins else set()
        for name in others:
            setattr(self._owner, name, self._functions[name])
        for name in added:
            delattr(self._owner, name)
        self._values = tuple(vars(self._owner).values())
        return [f"{self._owner.__name__}.{name}" for name in (*others, *added)]


_GONE = object()


def _look() -> dict[str, Any]:
    return {name: probe() for name, probe in _PROBES.items()}


def _next_descriptor() -> int:
    """The number that the next file gets: as many as are open, give or take what was closed in between."""
    try:
        number = os.dup(0)
    except OSError:  # there is none left, or standard input is closed, which is found elsewhere
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.close(number)
    return number

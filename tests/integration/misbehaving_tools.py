"""Tools and environments that do what they must not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reasoner import EnvironmentKind, Message, Observation, Problem, Tool, ToolError, Turn, environment, hookimpl, tool


@tool("trouble", timeout_s=1.0)
def trouble(what: str, *, greeting: str = "hello") -> Any:
    """Do something.

    Args:
        what: what to do
    """
    match what:
        case "hang":
            time.sleep(60)
        case "spin":
            while True:
                pass
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(60)
        case "leave":
            os._exit(0)
        case "exit":
            sys.exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise ValueError("no such thing")
        case "refuse":
            raise ToolError("ask for something else")
        case "print":
            sys.stdout.write("x" * 3_000_000)
        case "print bytes":
            os.write(1, b"\xff\xfe\x00" * 1000)
        case "megabytes":
            return "y" * 3_000_000
        case "bytes":
            return b"\xff\xfe"
        case "surrogate":
            return "\ud800 half"
        case "number":
            return 3
        case "nothing":
            return None
        case "memory":
            return "z" * 8_000_000_000
        case "fork":
            return fork_children()
        case "thread":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        case "forge":
            forge()
        case "pid":
            return str(os.getpid())
    return greeting


def fork_children() -> str:
    """Children that outlive the call, one in a session of its own."""
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    return "forked"


def forge() -> None:
    """Write to the channel that the worker answers on."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b'{"call": 1, "seconds": 0.0, "text": "forged"}\n' * 2)
        except OSError:
            continue


@tool("waits", timeout_s=5.0)
async def waits(seconds: float) -> str:
    """Wait without holding anything."""
    await asyncio.sleep(seconds)
    return f"waited {seconds:g}"


@tool("meets", timeout_s=60.0)
async def meets(file: str, calls: int) -> str:
    """Wait until so many calls are made at the same time: each adds a byte to a file that is there.

    A file of its own would be removed after the first call that ends, where the folder is in memory.
    """
    with Path(file).open("ab", buffering=0) as out:
        out.write(b".")
    while Path(file).stat().st_size < calls:
        await asyncio.sleep(0.02)
    return f"{calls} met"


class Counter:
    """Count."""

    def __init__(self, *, first: int = 0) -> None:
        self.count = first

    def __call__(self, what: str = "count") -> Any:
        if what != "count":
            return trouble(what)
        self.count += 1
        return f"{self.count} in {os.getpid()}"

    def close(self) -> None:
        Path(os.environ["CLOSED"]).touch() if "CLOSED" in os.environ else None


counter = tool("counter", timeout_s=1.0)(Counter)


class Troubled:
    """It does what the turn says."""

    def __init__(self, *, opens: str = "Say something.") -> None:
        self.opens = opens
        self.turns = 0

    def start(self, problem: Problem) -> Any:
        if problem.fields.get("start"):
            trouble(problem.fields["start"])
        return self.opens

    @tool("touch")
    def touch(self, what: str = "count") -> Any:
        """Touch it."""
        if what != "count":
            return trouble(what)
        self.turns += 10
        return f"touched in {os.getpid()}"

    async def step(self, turn: Turn) -> Any:
        self.turns += 1
        match turn.text:
            case "end":
                return Observation((Message("user", "bye"),), done=True, reward=1.0, parts={"turns": self.turns})
            case "silence":
                return Observation()
            case "nan":
                return Observation((Message("user", "x"),), reward=float("nan"))
            case "role":
                return Observation((Message("system", "x"),))
            case "parts":
                return Observation((Message("user", "x"),), parts={"x": {1, 2}})
            case "long":
                return "z" * 3_000_000
            case "none":
                return None
            case "say":
                return f"turn {self.turns} in {os.getpid()}"
        return trouble(turn.text)

    def close(self) -> dict[str, Any]:
        if self.turns > 100:
            time.sleep(60)
        return {"closed": self.turns}


troubled = environment("troubled", timeout_s=1.0)(Troubled)


@hookimpl
def register_tools() -> Iterable[Tool]:
    return [trouble, waits, meets, counter]


@hookimpl
def register_environments() -> Iterable[EnvironmentKind]:
    return [troubled]

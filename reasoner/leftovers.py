"""A reward source called in a process of its own, to see what its calls leave behind: threads and processes.

A worker of the scoring service cleans up after such a call and is replaced: nothing breaks, but every call pays for a
new worker. Here what was left is named.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.child_python import boot_command
from reasoner.codec import from_json, to_json
from reasoner.plugins import build_manager, reward_sources
from reasoner.reaping import become_subreaper, children, end_children, wait_gone
from reasoner.records import Problem, Response
from reasoner.rewards_api import RewardSource

START_S = 120
"""seconds in which plugins must be imported and the source prepared"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the source."""

    problem: Problem
    response: Response


@dataclass(frozen=True, slots=True)
class Errand:
    """What the process is told."""

    source: str
    options: Mapping[str, Any]
    plugins: tuple[str, ...]
    calls: tuple[Call, ...]


def left_behind(
    source: str, options: Mapping[str, Any], plugins: Sequence[str], calls: Sequence[Call], timeout_s: float
) -> str:
    """What the calls left behind (`thread Thread-1`, `process sleep 1000`); empty: nothing.

    Args:
        timeout_s: seconds for all calls together; when they are over, the process and its group are killed.
    """
    errand = to_json(Errand(source, options, tuple(plugins), tuple(calls)))
    process = subprocess.Popen(
        boot_command("reasoner.leftovers"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, log = process.communicate(errand, START_S + timeout_s)
    except subprocess.TimeoutExpired:
        return f"the calls did not come back in {timeout_s:g} seconds"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        wait_gone(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode:
        return f"the process ended with exit status {process.returncode}: {log.strip()[-500:]}"
    return out.strip()


def main() -> None:
    """Entry point of the process: the errand on standard input, what was left on standard output."""
    answer = os.dup(1)
    os.dup2(2, 1)
    become_subreaper()
    errand = from_json(sys.stdin.read(), Errand)
    source = reward_sources(build_manager(errand.plugins))[errand.source]
    options = source.check_options(errand.options)
    if source.prepare is not None:
        source.prepare()
    before = set(threading.enumerate())
    for call in errand.calls:
        with suppress(Exception):  # what a call raises is the scoring service's to report
            _make(call, source, options)
    left = [f"thread {thread.name}" for thread in threading.enumerate() if thread not in before]
    left += [f"process {_command(pid)}" for pid in sorted(children(os.getpid()))]
    end_children()
    os.write(answer, ", ".join(left).encode())
    os._exit(0)  # a thread that was left must not keep the process


def _make(call: Call, source: RewardSource, options: Mapping[str, Any]) -> None:
    match source.granularity:
        case "response":
            source(call.problem, call.response, **options)
        case "group":
            source(call.problem, (call.response,), **options)
        case "batch":
            source((call.problem,), (call.response,), **options)


def _command(pid: int) -> str:
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return command[:60] or f"{pid} (ended, not waited for)"
    return str(pid)

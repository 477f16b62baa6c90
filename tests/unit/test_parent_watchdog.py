"""What the watchdog remembers, how long it kills, and what it leaves alone."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from reasoner.processes import abandoned, parent_watchdog
from reasoner.processes import lifetime as processes
from reasoner.processes import subreaper as reaping
from reasoner.processes.abandoned import watchdog_command
from reasoner.processes.parent_watchdog import Identity, Patience, end_processes, look, look_at
from reasoner.processes.run_marker import MARKER, is_gone, new_marker
from reasoner.sandbox import Limits, SandboxError
from reasoner.sandbox.backends.unsandboxed import unsandboxed

NOBODY = "REASONER_RUN=nobody"
DEAD = {(pid, "1") for pid in range(2, 100_000)}
"""as a run with code workers leaves them: these ids may be in use again, and are others by their start"""


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts processes and ends them."""
    with ExitStack() as stack:

        def start(*command: str, **how: Any) -> tuple[subprocess.Popen[bytes], Identity]:
            process = stack.enter_context(subprocess.Popen(command, **how))
            stack.callback(process.kill)
            result = look_at(process.pid)
            assert result
            return process, (process.pid, result.start)

        yield start


def test_the_dead_are_forgotten_and_the_living_are_killed(started: Any) -> None:
    (one, living), (parent, _) = started("sleep", "60"), started("sh", "-c", "sleep 60; true")
    while not look(parent.pid, ()):
        time.sleep(0.01)
    below = look(parent.pid, ())
    assert look(parent.pid, DEAD | {living}) == below | {living}
    assert end_processes(NOBODY, DEAD | {living} | below) == []
    assert one.wait(10) == -signal.SIGKILL
    assert parent.wait(10) == 0  # its child was killed, and it was not


def test_a_run_that_starts_many_short_processes_is_not_remembered_by_them(started: Any) -> None:
    parent, _ = started("sh", "-c", "for i in $(seq 300); do /bin/true; done; echo; sleep 60", stdout=subprocess.PIPE)
    seen: set[Identity] = set()
    most = 0
    os.set_blocking(parent.stdout.fileno(), False)
    while parent.stdout.read(1) is None:
        seen = look(parent.pid, seen)
        most = max(most, len(seen))
    assert most <= 2
    assert len(look(parent.pid, seen)) <= 1


def test_what_an_orphan_starts_is_seen(started: Any) -> None:
    """Its parent is gone, so nothing leads from the run to it any more."""
    orphan, identity = started("sh", "-c", "read -r go; sleep 60; true", stdin=subprocess.PIPE)
    run, _ = started("sleep", "60")
    orphan.stdin.write(b"\n")
    orphan.stdin.flush()
    while len(look(run.pid, {identity})) < 2:
        time.sleep(0.01)


def test_what_cannot_be_killed_is_named(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (stuck, one), (other, two) = started("sleep", "60"), started("cat", stdin=subprocess.PIPE)
    send = parent_watchdog.send_signal
    monkeypatch.setattr(
        parent_watchdog, "send_signal", lambda each, number: None if each == one else send(each, number)
    )
    monkeypatch.setattr(parent_watchdog, "GIVE_UP", 0.2)
    assert end_processes(NOBODY, {one, two}) == [f"{stuck.pid} (sleep)"]
    assert other.wait(10) == -signal.SIGKILL
    assert stuck.poll() is None


def test_it_goes_on_as_long_as_something_dies(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    identities = {started("sleep", "60")[1] for _ in range(30)}
    waiting, send = sorted(identities), parent_watchdog.send_signal

    def one_in_a_round(each: Identity, number: int) -> None:
        if each == waiting[0]:
            send(waiting.pop(0), number)

    monkeypatch.setattr(parent_watchdog, "send_signal", one_in_a_round)
    monkeypatch.setattr(parent_watchdog, "GIVE_UP", 0.3)  # the rounds are 0.02 apart
    began = time.monotonic()
    assert end_processes(NOBODY, identities) == []
    assert time.monotonic() - began > 0.3


def test_it_has_killed_at_least_once(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process, identity = started("sleep", "60")
    monkeypatch.setattr(parent_watchdog, "GIVE_UP", -1.0)
    monkeypatch.setattr(parent_watchdog, "AT_MOST", -1.0)
    end_processes(NOBODY, {identity})
    assert process.wait(10) == -signal.SIGKILL


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    most, quiet = parent_watchdog.AT_MOST, parent_watchdog.GIVE_UP
    times = iter([0.0, quiet - 1, quiet + 1, most - 1, most + 1, most, most + quiet - 1, most + quiet + 1])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    patience = Patience()
    assert [patience.is_over(died) for died in (False, True, True, True)] == [False, False, False, True]  # a fork bomb
    patience = Patience()
    assert [patience.is_over(died) for died in (False, False)] == [False, True]


def test_one_whose_first_thread_has_ended_lives(started: Any) -> None:
    """Linux calls it a zombie."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start();"
        "libc = ctypes.CDLL(None); print(flush=True); libc.pthread_exit(None)"
    )
    process, identity = started(sys.executable, "-c", code, stdout=subprocess.PIPE)
    process.stdout.readline()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    result = look_at(process.pid)
    assert result
    assert not result.dead
    assert end_processes(NOBODY, {identity}) == []
    assert process.wait(10) == -signal.SIGKILL


def test_on_a_machine_with_many_processes_it_looks_less_often(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = started("sleep", "60")
    pauses, costs = [], iter([0.0, 0.001, 1.0, 1.1])

    def select(*given: Any) -> Any:
        pauses.append(given[3])
        return [[1] if len(pauses) == 2 else []]

    monkeypatch.setattr(time, "process_time", lambda: next(costs))
    monkeypatch.setattr("select.select", select)
    assert parent_watchdog.watch(run.pid, NOBODY, "reasoner-nobody-", []) == []
    assert pauses == [1.0, pytest.approx(5.0)]


def test_a_process_that_looks_like_a_watchdog_only_from_afar() -> None:
    ours = watchdog_command(1, "x")
    assert parent_watchdog.is_watchdog(ours)
    assert parent_watchdog.is_watchdog([*ours[:3], "/other/site-packages/reasoner/processes/parent_watchdog.py"])
    for words in (
        [],
        ours[:3],
        [ours[0], *ours[3:]],
        [*ours[:3], "/tmp/parent_watchdog.py"],
        [*ours[:2], "-s", ours[3]],
    ):
        assert not parent_watchdog.is_watchdog(words)


def test_whose_run_is_over(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = new_marker()
    run, pid, start, namespace = own.split(".")
    ended, _ = started("true")
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    zombie = look_at(ended.pid)
    assert zombie
    assert not is_gone(own)
    assert is_gone(f"{run}.{pid}.{int(start) - 1}.{namespace}")  # its id was given to this process
    assert is_gone(f"{run}.{ended.pid}.{zombie.start}.{namespace}")
    ended.wait()
    assert is_gone(f"{run}.{ended.pid}.{zombie.start}.{namespace}")
    for unknown in ("", "alone", run, f"{run}.{ended.pid}.1", f"{run}.{ended.pid}.1.{int(namespace) + 1}", f"{own}.1"):
        assert not is_gone(unknown)
    monkeypatch.setattr(parent_watchdog, "look_at", lambda pid: None)  # another user's, where /proc hides them

    def forbidden(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert not is_gone(f"{run}.1.1.{namespace}")


def test_what_this_command_runs_in_is_left_alone(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, _, namespace = new_marker().split(".")
    over = f"{run}.{os.getpid()}.1.{namespace}"
    process, _ = started("sleep", "60", env=os.environ | {MARKER: over})
    monkeypatch.setattr(abandoned, "_ancestor_marks", lambda: [over])
    abandoned.remove_abandoned_runs()
    assert process.poll() is None
    monkeypatch.setattr(abandoned, "_ancestor_marks", lambda: [])
    abandoned.remove_abandoned_runs()
    assert process.wait(10) == -signal.SIGKILL


def test_children_that_cannot_be_killed_are_named(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = started("sleep", "60")
    monkeypatch.setattr(reaping, "children", lambda pid: {process.pid})
    monkeypatch.setattr(reaping, "has_children", lambda: True)
    monkeypatch.setattr(reaping, "kill", lambda pid: None)
    monkeypatch.setattr(parent_watchdog, "GIVE_UP", 0.1)
    assert reaping.end_children() == [f"{process.pid} (sleep)"]


def test_a_child_that_cannot_be_killed_is_left_with_a_warning(
    started: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process, _ = started("sleep", "60")
    monkeypatch.setattr(reaping, "GIVE_UP", 0.1)
    with caplog.at_level(logging.WARNING):
        assert not reaping.wait_gone(process)
    assert f"is not gone: {process.pid} (sleep)" in caplog.text
    process.kill()
    assert reaping.wait_gone(process)


def test_a_program_that_leaves_something_unkillable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_watchdog, "end_processes", lambda marker: ["7 (stuck)"])
    with pytest.raises(SandboxError, match=r"could not be ended: 7 \(stuck\)"):
        unsandboxed().run(["/bin/true"], {}, b"", Limits())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("read word; exit 0", ""),
        ("read word; echo '7 (stuck)'; exit 1", r"could not be ended: 7 (stuck)"),
        ("read word; exit 3", "ended with 3"),
        ("sleep 60", "does not answer"),
    ],
)
def test_how_a_watchdog_ends(started: Any, monkeypatch: pytest.MonkeyPatch, command: str, message: str) -> None:
    monkeypatch.setattr(processes, "_ANSWER_S", 0.5 if "sleep" in command else 30.0)
    guard, _ = started("sh", "-c", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    text = processes._dismiss(guard)
    assert message in text
    assert bool(message) == bool(text)


def test_a_watchdog_that_was_stopped_ends_with_its_run() -> None:
    with processes.guard_processes():
        time.sleep(0.2)  # it is there, and has its command line in a moment
        (guard,) = [
            pid for pid in reaping.children(os.getpid()) if parent_watchdog.is_watchdog(parent_watchdog.command(pid))
        ]
        os.kill(guard, signal.SIGSTOP)
    assert look_at(guard) is None

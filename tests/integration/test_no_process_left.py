"""A run that is interrupted or killed leaves no process behind: real processes, real signals, real vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasoner.processes.lifetime import Interrupted, guard_processes, interruptible
from reasoner.processes.parent_watchdog import command, is_watchdog, marked, watch
from reasoner.processes.subreaper import children
from tests.tiny import build_tiny_model

ROOT = Path(__file__).parents[2]
VLLM = [pytest.mark.vllm, pytest.mark.slow]


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_run(folder: Path, with_vllm: bool) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    model = [str(build_tiny_model(folder / "model"))] if with_vllm else []
    command = [sys.executable, "-m", "tests.integration.guarded", str(folder), *model]
    run = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    assert wait_for(lambda: (folder / "ready").exists() or run.poll() is not None, 200), "the run did not start"
    assert run.poll() is None, f"the run ended with {run.returncode}"
    return run, json.loads((folder / "ready").read_text())


@pytest.mark.parametrize(
    ("with_vllm", "number", "code"),
    [
        (False, signal.SIGINT, 130),
        (False, signal.SIGHUP, 130),
        (False, signal.SIGKILL, -9),
        pytest.param(True, signal.SIGTERM, 130, marks=VLLM, id="vllm-SIGTERM"),
        pytest.param(True, signal.SIGKILL, -9, marks=VLLM, id="vllm-SIGKILL"),
    ],
)
def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, with_vllm: bool, number: int, code: int) -> None:
    run, facts = start_run(tmp_path, with_vllm)
    # everything below the run, and what has left its tree
    below = {process.pid for process in psutil.Process(run.pid).children(recursive=True)}
    ids = below | {pid for pid, _ in marked(facts["marker"])}
    assert len(ids) >= (5 if with_vllm else 4)
    assert facts["forked"] in ids
    run.send_signal(number)
    try:
        assert run.wait(60) == code
    finally:
        run.kill()
    gone = wait_for(lambda: not any(map(running, ids)) and not list(marked(facts["marker"])), 20)
    assert gone, [psutil.Process(pid).cmdline() for pid in ids if running(pid)]
    if number == signal.SIGKILL:
        assert wait_for(lambda: not Path(facts["scratch"]).exists(), 20)


START = "from reasoner.processes.lifetime import guard_processes\nwith guard_processes(): pass"


def watchdog_of(pid: int) -> int:
    (result,) = [child for child in children(pid) if is_watchdog(command(child))]
    return result


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
def test_the_next_start_cleans_up_after_a_run_without_its_watchdog(tmp_path: Path, number: signal.Signals) -> None:
    for name in ("living", "killed"):
        (tmp_path / name).mkdir()
    (living, kept), (killed, facts) = (start_run(tmp_path / name, with_vllm=False) for name in ("living", "killed"))
    guard = watchdog_of(killed.pid)
    try:
        os.kill(guard, number)
        killed.kill()
        killed.wait()
        left = [pid for pid, _ in marked(facts["marker"])]
        assert len(left) == 2
        assert Path(facts["scratch"]).exists()
        starts = [subprocess.Popen([sys.executable, "-c", START], stderr=subprocess.PIPE, text=True) for _ in range(2)]
        message = [start.communicate(timeout=60)[1] for start in starts]
        assert [start.returncode for start in starts] == [0, 0], message
        assert "of a killed run" in "".join(message) or "what a killed run left behind" in "".join(message)
        assert wait_for(lambda: not any(map(running, [guard, *left])), 20)
        assert not Path(facts["scratch"]).exists()
        if number == signal.SIGSTOP:  # the other one had it in its memory: forked, it carries no mark
            assert wait_for(lambda: not running(facts["forked"]), 20)
        assert living.poll() is None
        assert len(list(marked(kept["marker"]))) == 2
        assert Path(kept["scratch"]).exists()
    finally:
        for run in (living, killed):
            run.kill()
            run.wait()
        with suppress(ProcessLookupError):
            os.kill(facts["forked"], signal.SIGKILL)
    assert wait_for(lambda: not Path(kept["scratch"]).exists(), 20)


RANK = """
import os, sys, time
from reasoner.processes.lifetime import guard_processes
from reasoner.processes.scratch_folders import ScratchFolder
with guard_processes():
    print(ScratchFolder("weights").path, flush=True)
    time.sleep(600)
"""
LAUNCHER = f"""
import subprocess, sys, time
from reasoner.processes.lifetime import guard_processes
with guard_processes():
    subprocess.Popen([sys.executable, "-c", {RANK!r}])
    time.sleep(600)
"""


def test_a_killed_launcher_leaves_nothing_of_its_ranks_either() -> None:
    """Their watchdogs are below it, and must not be killed before they have removed what was the ranks'."""
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        scratch = Path(launcher.stdout.readline().strip())
        ranks = [pid for pid in children(launcher.pid) if not is_watchdog(command(pid))]
        guards = [watchdog_of(launcher.pid), *map(watchdog_of, ranks)]
        time.sleep(2.5)  # so that they have been seen
        assert scratch.is_dir()
        launcher.kill()
    assert wait_for(lambda: not any(map(running, [*ranks, *guards])), 20)
    assert not scratch.exists()


def test_the_guard_ends_what_is_left_when_the_run_ends_by_itself() -> None:
    with guard_processes():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        assert running(child.pid)
    assert child.wait(10) == -signal.SIGKILL


def test_a_signal_unwinds_context_managers_once_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(Interrupted, match="ended by SIGTERM"), interruptible():
        work()
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_watchdog_that_comes_too_late_still_cleans_up() -> None:
    run = subprocess.Popen(["true"])
    run.wait()
    mark = f"REASONER_RUN=late-{os.getpid()}"
    left = subprocess.Popen(["sleep", "60"], env=os.environ | dict([mark.split("=")]))
    assert watch(run.pid, mark, "reasoner-late-", []) == []
    assert left.wait(10) == -signal.SIGKILL

"""A plugin whose reward source does what the response says: answers, hangs, forks, dies, writes where it must not."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reasoner import Problem, Response, RewardSource, Score, hookimpl, reward

LIFE_S = 60.0
"""seconds after which the worst of these end by themselves: a broken service must not ruin the machine of its tester"""


def spin() -> None:
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        pass


def fork_and_hang() -> None:
    if os.fork() == 0:
        spin()
    spin()


def daemon() -> None:
    """A process that has left its session and its parent."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            spin()
        os._exit(0)
    os.wait()


def daemon_and_hang() -> None:
    daemon()
    spin()


def daemon_and_answer() -> float:
    daemon()
    return 1.0


def bomb(leave_group: bool = False) -> None:
    """Processes that are never the same for long, so that nobody can kill them one by one."""
    end = time.monotonic() + LIFE_S
    if os.fork() == 0:
        for _ in range(3):
            os.fork()
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            if leave_group:
                os.setsid()
        os._exit(0)
    spin()


def answer_twice() -> float:
    """Returns 0 in a child, and a little later 1 in the worker."""
    if os.fork() == 0:
        return 0.0
    time.sleep(0.1)
    return 1.0


def sleeping_child() -> float:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return 1.0


def allocate() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(2**24))


def deep() -> float:
    return 1.0 + deep()


def kill_parent() -> None:
    daemon()
    os.kill(os.getppid(), signal.SIGKILL)
    spin()


def fail() -> None:
    raise LookupError("no such unit")


def shout() -> float:
    print('{"task": 0, "reward": 0, "seconds": 0.0, "value": 7.0}', flush=True)
    print("noise", file=sys.stderr, flush=True)
    os.write(1, b"x" * 200_000)
    return 1.0


def listen() -> float:
    return float(sys.stdin.read() == "")


def close_output() -> float:
    os.close(1)
    return 1.0


def close_everything() -> float:
    os.closerange(0, 256)
    return 1.0


def write_everywhere() -> float:
    for descriptor in range(64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"garbage\n")
    return 1.0


def leave_thread() -> float:
    threading.Thread(target=spin, daemon=True).start()
    return 1.0


def leave_alarm() -> float:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return 1.0


def pause() -> float:
    time.sleep(0.3)
    return 1.0


def endless_parts() -> Score:
    return Score(1.0, {"text": "x" * 2**22})


ACTIONS: dict[str, Callable[[], Any]] = {
    "good": lambda: 1.0,
    "score": lambda: Score(0.5, {"extracted": "4"}, "half"),
    "not applicable": lambda: None,
    "spin": spin,
    "sleep": lambda: time.sleep(1000),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "fork and hang": fork_and_hang,
    "daemon and hang": daemon_and_hang,
    "daemon and answer": daemon_and_answer,
    "bomb": bomb,
    "scattering bomb": lambda: bomb(leave_group=True),
    "answer twice": answer_twice,
    "sleeping child": sleeping_child,
    "allocate": allocate,
    "deep": deep,
    "exit 0": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill group": lambda: os.killpg(0, signal.SIGKILL),
    "kill parent": kill_parent,
    "raise": fail,
    "leave": lambda: sys.exit(0),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "nan": lambda: float("nan"),
    "infinite": lambda: float("-inf"),
    "huge": lambda: 10**400,
    "text": lambda: "1.0",
    "no json": lambda: Score(1.0, {"set": {1}}),
    "endless parts": endless_parts,
    "shout": shout,
    "listen": listen,
    "close output": close_output,
    "close everything": close_everything,
    "write everywhere": write_everywhere,
    "leave thread": leave_thread,
    "leave alarm": leave_alarm,
    "pause": pause,
    "alone": lambda: threading.active_count(),
}


@reward("obedient", timeout_s=2.0)
def obedient(problem: Problem, response: Response) -> Any:
    """Does what the response says."""
    return ACTIONS[response.text]()


@reward("echo")
def echo(problem: Problem, response: Response, *, prefix: str = "") -> Score:
    """What arrives in the worker, and where it is."""
    parts = {
        "seen": prefix + repr((problem, response)),
        "pid": os.getpid(),
        "heavy": sorted({"torch", "vllm", "transformers"} & sys.modules.keys()),
    }
    return Score(1.0, parts)


@reward("touch")
def touch(problem: Problem, response: Response) -> float:
    """Creates the file that the response names."""
    Path(response.text).touch()
    return 1.0


@reward("patient", timeout_s=30.0)
def patient(problem: Problem, response: Response) -> float:
    """Sleeps as many seconds as the response says."""
    time.sleep(float(response.text))
    return 1.0


prepared: list[int] = []


@reward("prepared", prepare=lambda: prepared.append(os.getpid()))
def was_prepared(problem: Problem, response: Response) -> float:
    """1.0 if `prepare` ran once, in the process that forked this one."""
    return float(prepared == [os.getppid()])


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    return (obedient, echo, touch, patient, was_prepared)

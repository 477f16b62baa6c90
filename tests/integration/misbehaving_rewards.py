"""A plugin whose reward sources do what the response says: answer, hang, fork, die, write where they must not."""

import asyncio
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from reasoner import Problem, Response, RewardSource, Score, hookimpl, reward

LIFE_S = 30.0
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
    subprocess.Popen(["sleep", str(LIFE_S)], start_new_session=True)
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
    "one by one": lambda: 1.0,
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
    "large parts": lambda: Score(1.0, {"text": "x" * 2**19}),
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


@reward("obedient", timeout_s=2.0, cache=False)
def obedient(problem: Problem, response: Response) -> Any:
    """Does what the response says."""
    return ACTIONS[response.text]()


@reward("obedient_async", timeout_s=2.0, cache=False)
async def obedient_async(problem: Problem, response: Response) -> Any:
    """Does what the response says, in an event loop."""
    await asyncio.sleep(1000 if response.text == "await" else 0)
    return ACTIONS[response.text]()


@reward("obedient_lane", timeout_s=2.0, cache=False, workers=2)
def obedient_lane(problem: Problem, response: Response) -> Any:
    """Does what the response says, in workers of its own."""
    return ACTIONS[response.text]()


def many(responses: Sequence[Response]) -> Any:
    """What the first response says, for all of them."""
    scores: dict[str, Any] = {
        "too few": [1.0] * (len(responses) - 1),
        "too many": [1.0] * (len(responses) + 1),
        "one number": 1.0,
        "letters": "x" * len(responses),
    }
    first = responses[0].text
    if first == "one by one":
        return [LookupError("no such unit") if each.text == "refuse" else ACTIONS[each.text]() for each in responses]
    return scores[first] if first in scores else [ACTIONS[first]()] * len(responses)


@reward("obedient_group", timeout_s=2.0, granularity="group")
def obedient_group(problem: Problem, responses: Sequence[Response]) -> Any:
    """Does what the first response of the group says."""
    return many(responses)


@reward("obedient_batch", timeout_s=2.0, granularity="batch", workers=2)
def obedient_batch(problems: Sequence[Problem], responses: Sequence[Response]) -> Any:
    """Does what the first response of the batch says."""
    assert len(problems) == len(responses)
    return many(responses)


@reward("rank", granularity="group")
async def rank(problem: Problem, responses: Sequence[Response]) -> list[Score | None]:
    """Longer is better; nothing to say about an empty response."""
    order = sorted(response.text for response in responses)
    return [Score(order.index(each.text), {"group": problem.id}) if each.text else None for each in responses]


@reward("gather", granularity="batch", timeout_s=20.0)
def gather(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Score]:
    """What stands beside each response, and among how many."""
    pairs = zip(problems, responses, strict=True)
    return [Score(1.0, {"size": len(responses), "seen": [p.id, r.text]}) for p, r in pairs]


@reward("number")
def number(problem: Problem, response: Response) -> float:
    """The first word."""
    return float(response.text.split()[0])


@reward("second")
def second(problem: Problem, response: Response) -> float:
    """The second word."""
    return float(response.text.split()[1])


@reward("counted")
def counted(problem: Problem, response: Response, *, file: str) -> float | None:
    """Leaves a line in a file; raises for `raise`, has nothing to say about `none`, and no number for `nan`."""
    with Path(file).open("a") as lines:
        lines.write(f"{response.text}\n")
    if response.text == "raise":
        raise LookupError("no such word")
    return {"none": None, "nan": float("nan")}.get(response.text, float(len(response.text)))


@reward("flaky", retries=2, cache=False, timeout_s=3.0)
def flaky(problem: Problem, response: Response, *, file: str, failures: int, hang: bool = False) -> float:
    """Raises so many times, then answers, or hangs."""
    with Path(file).open("a+") as lines:
        lines.write("attempt\n")
        lines.seek(0)
        attempts = len(lines.readlines())
    if attempts <= failures:
        raise ConnectionError(f"no answer to attempt {attempts}")
    if hang:
        time.sleep(LIFE_S)
    return 1.0


class Bounds(BaseModel):
    """Options as a model."""

    low: float = 0.0
    high: float = Field(ge=0.0, description="largest value")


@reward("bounded")
def bounded(problem: Problem, response: Response, *, options: Bounds) -> float:
    """The response's number between two bounds."""
    return min(max(float(response.text), options.low), options.high)


def take_address_space() -> float:
    mmap.mmap(-1, 2**30, prot=mmap.PROT_READ).close()
    return 1.0


@reward("limited", cache=False)
def limited(problem: Problem, response: Response) -> float:
    """Takes a GB of address space."""
    return take_address_space()


@reward("unlimited", cache=False, workers=1, limit_memory=False)
def unlimited(problem: Problem, response: Response) -> float:
    """Takes a GB of address space, and may."""
    return take_address_space()


async def meet(folder: Path, name: str, calls: int) -> float:
    """Waits until so many calls, each with a name of its own, are made at the same time."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < calls:
        await asyncio.sleep(0.02)
    return 1.0


@reward("meeting_lane", timeout_s=30.0, workers=4, cache=False)
async def meeting_lane(problem: Problem, response: Response, *, folder: str, calls: int) -> float:
    """Waits for other calls, in workers of its own."""
    return await meet(Path(folder), response.text, calls)


@reward("meeting", timeout_s=30.0, cache=False)
async def meeting(problem: Problem, response: Response, *, folder: str, calls: int) -> float:
    """Waits for the calls of a lane."""
    return await meet(Path(folder), "common", calls)


@reward("echo", cache=False)
def echo(problem: Problem, response: Response, *, prefix: str = "") -> Score:
    """What arrives in the worker, and where it is."""
    parts = {
        "seen": prefix + repr((problem, response)),
        "pid": os.getpid(),
        "heavy": sorted({"torch", "vllm", "transformers"} & sys.modules.keys()),
    }
    return Score(1.0, parts)


@reward("touch", cache=False)
def touch(problem: Problem, response: Response) -> float:
    """Creates the file that the response names."""
    Path(response.text).touch()
    return 1.0


@reward("patient", timeout_s=30.0, cache=False)
def patient(problem: Problem, response: Response) -> float:
    """Sleeps as many seconds as the response says."""
    time.sleep(float(response.text))
    return 1.0


prepared: list[int] = []


@reward("prepared", prepare=lambda: prepared.append(os.getpid()), cache=False)
def was_prepared(problem: Problem, response: Response) -> float:
    """1.0 if `prepare` ran once, in the process that forked this one."""
    return float(prepared == [os.getppid()])


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    return [value for value in list(globals().values()) if isinstance(value, RewardSource)]

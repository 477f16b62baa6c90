#!/usr/bin/env python3
"""The scoring service measured: calls per second, what equal calls save, what misbehaving verifiers cost, overlap.

    scripts/bench_scoring.py [--workers 2] [--write]

Chaos: 200 responses of which some make the verifier loop for ever, fork children that loop, leave a daemon and loop,
sleep past the deadline, allocate without end, leave with `os._exit`, raise, return NaN or text, or write to standard
output; scored from the main thread, from another thread and inside an event loop. The time must stay below

    hanging calls * deadline / workers + a constant.

`--write` writes docs/validation/scoring.md, which scripts/document.py puts into docs/rewards.md.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.monitoring.timer import Timer
from reasoner.records import Group, Message, Problem, Response, ScoredGroup
from reasoner.scoring.service import ScoringService
from scripts.harness import parser_of, write_page

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = str(ROOT / "tests" / "integration" / "misbehaving_rewards.py")
PAGE = "scoring.md"
MARK = "REASONER_SCORING_BENCH"
"""environment variable by which processes of a measurement are found"""
HANGS = ("spin", "fork and hang", "daemon and hang", "sleep")
ENDS: Mapping[str, float | str] = {
    "allocate": "error",
    "exit 0": "crash",
    "exit 3": "crash",
    "raise": "error",
    "nan": "invalid",
    "text": "invalid",
    "shout": 1.0,
}
"""misbehaviour that ends by itself -> the verdict or the kind of failure"""
RESPONSES = 200


@dataclass(frozen=True, slots=True)
class Chaos:
    """What became of the 200 responses."""

    seconds: float
    bound_s: float
    """hanging calls * deadline / workers"""
    hanging: int
    wrong: tuple[str, ...]
    """responses with another outcome than they must have; empty: none"""
    outcomes: Mapping[float | str, int]
    left: int
    """processes beside the host and its workers once everything was scored"""
    usable: bool
    """whether the service then scored 20 harmless responses"""


def chaos(count: int, timeout_s: float, workers: int = 2) -> Chaos:
    """Score 200 responses with `each` of every misbehaviour among them."""
    expected = {**dict.fromkeys(HANGS, "timeout"), **ENDS}
    texts = [action for action in expected for _ in range(count)]
    step = RESPONSES // len(texts)
    texts = [text for action in texts for text in (action, *["good"] * (step - 1))]
    texts += ["good"] * (RESPONSES - len(texts))
    rewards = [RewardConfig(source="obedient", timeout_s=timeout_s)]
    scoring = ScoringConfig(workers=workers, memory_mb=256, max_failure_rate=1.0)
    os.environ[MARK] = mark = uuid.uuid4().hex
    with ScoringService(rewards, scoring, [PLUGIN]) as scorer:
        started = time.monotonic()
        scored = list(scorer.score(_groups(texts)))
        seconds = time.monotonic() - started
        left = _left_processes(mark, workers + 1)
        rescored = list(scorer.score(_groups(["good"] * 20)))
    del os.environ[MARK]
    outcomes = [
        (count.group.responses[row].text, part.value if part.failure is None else part.failure.kind)
        for count in scored
        for row, (part,) in enumerate(count.components)
    ]
    hanging = count * len(HANGS)
    return Chaos(
        seconds=seconds,
        bound_s=hanging * timeout_s / workers,
        hanging=hanging,
        wrong=tuple(f"{text}: {got}" for text, got in outcomes if got != {"good": 1.0, **expected}[text]),
        outcomes=Counter(got for _, got in outcomes if got is not None),
        left=left + _left_processes(mark, 0),
        usable=[reward for count in rescored for reward in count.rewards] == [1.0] * 20,
    )


def in_thread(task: Callable[[], T]) -> T:
    """Run in another thread than the main one."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(task()))
    thread.start()
    thread.join()
    return results[0]


def in_event_loop(task: Callable[[], T]) -> T:
    """Run inside an event loop."""

    async def main() -> T:
        return task()

    return asyncio.run(main())


WAYS: Mapping[str, Callable[[Callable[[], Chaos]], Chaos]] = {
    "main thread": lambda task: task(),
    "another thread": in_thread,
    "event loop": in_event_loop,
}


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of the scoring hides behind sampling."""

    sample_s: float
    scoring_s: float
    """in the verifier, summed over its workers"""
    wait_s: float
    """from the last sampled group until everything was scored"""


def overlap(groups: int, sample_s: float, score_s: float, workers: int = 2) -> Overlap:
    """A sampler that takes `sample_s` for a group of four, a verifier that takes `score_s` for a response."""

    def sampled() -> Iterator[Group]:
        for index in range(groups):
            time.sleep(sample_s)
            yield _group([str(score_s)] * 4, f"p{index}")

    scoring, timer = ScoringConfig(workers=workers), Timer()
    with ScoringService([RewardConfig(source="patient")], scoring, [PLUGIN]) as scorer:
        list(scorer.score(timer.iterate("sample", sampled())))
        timer.rest("score_wait")
        spent = scorer.statistics()["patient"].seconds
    return Overlap(timer.seconds["sample"], spent, timer.seconds["score_wait"])


def rate(texts: Sequence[str], sources: Sequence[str], workers: int, cache: int = 0) -> float:
    """Responses per second."""
    rewards = [RewardConfig(source=source) for source in sources]
    with ScoringService(rewards, ScoringConfig(workers=workers, cache=cache)) as scorer:
        list(scorer.score(_groups(texts[:64])))  # the workers are there, their imports done
        started = time.perf_counter()
        scored: list[ScoredGroup] = list(scorer.score(_groups(texts)))
        spent = time.perf_counter() - started
    return sum(len(item.rewards) for item in scored) / spent


def _groups(texts: Sequence[str]) -> Iterator[Group]:
    return (_group(texts[start : start + 8], f"p{start}") for start in range(0, len(texts), 8))


def _group(texts: Sequence[str], name: str) -> Group:
    responses = [Response(text, (1, 2), (True, True), (-0.5, -0.25), "stop", 0) for text in texts]
    return Group(Problem(name, (Message("user", "How many?"),), "#### 42"), (1,), tuple(responses))


def _left_processes(mark: str, most: int, seconds: float = 10.0) -> int:
    """How many marked processes beyond `most` are alive, this one left out; they have some seconds to die."""
    end = time.monotonic() + seconds
    while (alive := _alive(mark)) > most and time.monotonic() < end:
        time.sleep(0.02)
    return max(0, alive - most)


def _alive(mark: str) -> int:
    alive = 0
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
            alive += marked and process.pid != os.getpid()
        except psutil.Error:
            continue
    return alive


def rows(workers: int) -> Iterator[tuple[str, str]]:
    """What is measured, and the figures."""
    solutions = [f"She has {n} and buys {m}, so {n + m}.\n#### {n + m}" for n in range(80) for m in range(50)]
    equal = [solutions[index % 400] for index in range(4000)]
    yield "`boxed_format`, responses per second", f"{rate(solutions, ['boxed_format'], workers):,.0f}"
    yield "`math`, responses per second", f"{rate(solutions, ['math'], workers):,.0f}"
    yield (
        "`math` and `boxed_format`, responses per second",
        f"{rate(solutions, ['math', 'boxed_format'], workers):,.0f}",
    )
    yield "`math`, nine of ten responses equal to an earlier one", f"{rate(equal, ['math'], workers, 10_000):,.0f}"
    for where, way in WAYS.items():
        outcome = way(lambda: chaos(count=5, timeout_s=1.0, workers=workers))
        kinds = ", ".join(f"{count} {kind}" for kind, count in outcome.outcomes.items() if kind != 1.0)
        wrong = f"WRONG: {'; '.join(outcome.wrong)}" if outcome.wrong else "every outcome as it must be"
        yield (
            f"chaos, {where}: {RESPONSES} responses, {outcome.hanging} hang until their deadline of 1 s",
            f"{outcome.seconds:.1f} s (bound {outcome.bound_s:.0f} s + constant); {wrong} ({kinds}); processes left: "
            f"{outcome.left}; usable afterwards: {'yes' if outcome.usable else 'NO'}",
        )
    hidden = overlap(groups=20, sample_s=0.5, score_s=0.2, workers=workers)
    yield (
        "overlap: 20 groups of 4 sampled in 0.5 s each, 0.2 s of scoring per response",
        f"sampling {hidden.sample_s:.1f} s, scoring {hidden.scoring_s:.1f} s, waited for {hidden.wait_s:.1f} s of it",
    )


def main() -> None:
    arguments = parser_of(__doc__, PAGE)
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    lines = ["| what | measured |", "|---|---|"]
    for what, figures in rows(options.workers):
        print(f"{what}: {figures}", flush=True)
        lines.append(f"| {what} | {figures} |")
    if options.write:
        source = f"bench_scoring.py: {options.workers} workers, {os.cpu_count()} cores"
        write_page(PAGE, source, "\n".join(lines))


if __name__ == "__main__":
    main()

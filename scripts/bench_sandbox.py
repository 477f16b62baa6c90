#!/usr/bin/env python3
"""What a sandbox costs: programs per second on one core, beside a plain child process with no isolation.

    scripts/bench_sandbox.py [--rounds 5] [--programs 20]

Everything is held on one core. All are measured in turn in every round, so that whatever else the machine does falls on
all of them; ratios are taken within a round. `CPU` counts the time of all processes, and says more on a busy machine.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reasoner.errors import MissingDependencyError
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Sandbox, open_sandbox
from reasoner.sandbox.choose import BACKENDS, UNSANDBOXED
from scripts.harness import parser_of, spread

PROGRAMS = {
    "print(1)": (b"print(1)", b"1\n"),
    "a function and its tests": (
        b"""
import heapq

def smallest(numbers, count):
    heap = []
    for number in numbers:
        heapq.heappush(heap, -number)
        if len(heap) > count:
            heapq.heappop(heap)
    return sorted(-number for number in heap)

def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number ** 0.5) + 1))

assert smallest([5, 2, 8, 1, 9, 3], 3) == [1, 2, 3]
assert smallest([], 2) == []
assert [number for number in range(100) if is_prime(number)][-1] == 97
print(sum(number for number in range(5000) if is_prime(number)))
""",
        b"1548136\n",
    ),
}
PLAIN = "plain child process"
Run = Callable[[bytes], bytes]


def plain(source: bytes) -> bytes:
    """As a script would do it: a folder, a file, a child process."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "main.py").write_bytes(source)
        command = [PYTHON, *ISOLATED, "main.py"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60).stdout


def sandboxed(sandbox: Sandbox) -> Run:
    limits = Limits(wall_s=60.0)
    return lambda source: sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, b"", limits).stdout


def runners() -> dict[str, Run]:
    runs: dict[str, Run] = {PLAIN: plain}
    for name in (*BACKENDS, UNSANDBOXED):
        try:
            sandbox = open_sandbox(name)
        except MissingDependencyError as error:
            print(f"without {name}: {error}")
            continue
        runs[sandbox.name] = sandboxed(sandbox)
    return runs


def measured(run: Run, source: bytes, expected: bytes, count: int) -> tuple[float, float]:
    """Seconds per program, and CPU seconds."""
    start, before = time.perf_counter(), cpu_seconds()
    for _ in range(count):
        assert run(source) == expected
    return (time.perf_counter() - start) / count, (cpu_seconds() - before) / count


def cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=int, default=20, help="of each kind, in every sandbox, in every round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ways = runners()
    for title, (source, expected) in PROGRAMS.items():
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, run in ways.items():
                times[name].append(measured(run, source, expected, options.programs))
        report(title, times)


def report(title: str, times: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{title}\n")
    print("| | programs/s | ms | CPU ms | ratio of ms [range] | ratio of CPU [range] |\n|---|---|---|---|---|---|")
    for name, rounds in times.items():
        wall, cpu = (statistics.median(item) for item in zip(*rounds, strict=True))
        ratios = [
            spread([taken[k] / base[k] for taken, base in zip(rounds, times[PLAIN], strict=True)], ".2f")
            for k in (0, 1)
        ]
        print(f"| {name} | {1 / wall:.1f} | {wall * 1000:.1f} | {cpu * 1000:.1f} | {ratios[0]} | {ratios[1]} |")


if __name__ == "__main__":
    main()

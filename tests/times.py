"""What the tests cost: `scripts/test -p tests.times` prints CPU and wall seconds per file, and of the costliest tests.

CPU seconds are those of the test's own process and of the children that it has waited for; they are about the same on a
busy machine, which wall seconds are not. What a fixture of a module costs is part of the first test that uses it.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

import pytest

NAME = "cost"
"""of the property of a report"""
MOST = 60
"""lines of each table"""


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    own: float = 0.0
    children: float = 0.0
    wall: float = 0.0

    @classmethod
    def so_far(cls) -> Cost:
        own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return cls(own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime, time.perf_counter())

    @property
    def cpu(self) -> float:
        return self.own + self.children

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.own + other.own, self.children + other.children, self.wall + other.wall)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.own - other.own, self.children - other.children, self.wall - other.wall)


class Times:
    """Measures in the processes that run tests, and adds up where their reports arrive."""

    def __init__(self) -> None:
        self._last = Cost.so_far()
        self._tests: defaultdict[str, Cost] = defaultdict(Cost)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._last = Cost.so_far()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = Cost.so_far()
        cost, self._last = now - self._last, now
        # not into the list that the reports of all three phases share
        report.user_properties = [*report.user_properties, (NAME, [cost.own, cost.children, cost.wall])]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == NAME and isinstance(value, list):
                self._tests[report.nodeid] += Cost(*value)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files: defaultdict[str, Cost] = defaultdict(Cost)
        for test, cost in self._tests.items():
            files[test.partition("::")[0]] += cost
        terminalreporter.section("seconds")
        total = sum(self._tests.values(), Cost())
        for line in table({f"{len(self._tests)} tests": total}, files, self._tests):
            terminalreporter.write_line(line)


def table(*parts: Mapping[str, Cost]) -> Iterable[str]:
    """Lines of a table, the most expensive of each part first."""
    yield f"{'CPU':>8} {'own':>8} {'children':>8} {'wall':>8}"
    for part in parts:
        for name, cost in sorted(part.items(), key=lambda item: -item[1].cpu)[:MOST]:
            yield f"{cost.cpu:8.1f} {cost.own:8.1f} {cost.children:8.1f} {cost.wall:8.1f}  {name}"
        yield ""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Times(), "times")

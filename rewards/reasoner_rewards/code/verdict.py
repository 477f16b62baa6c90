"""What became of a program under its tests."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SHOWN = 100
"""characters of a value in a note"""


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test: whether it was passed, and how the program behaved in it."""

    passed: bool
    note: str = ""
    """why not"""
    ended: bool = True
    """whether the program gave an answer, right or wrong"""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class ProgramVerdict:
    """All tests of a program."""

    tests: tuple[TestResult, ...]
    compiled: bool = True
    refused: str = ""
    """why it did not come as far as its first test; empty: it did"""

    @property
    def passed(self) -> int:
        """Tests that were passed."""
        return sum(test.passed for test in self.tests)

    @property
    def ran(self) -> bool:
        """Whether it answered every test: no exception, crash or timeout."""
        return all(test.ended for test in self.tests)

    @property
    def timed_out(self) -> bool:
        """Whether it took too long somewhere."""
        return any(test.timed_out for test in self.tests)

    @property
    def note(self) -> str:
        """The first failure: `test 2 of 3: f(1) returned 1, expected 2`."""
        if self.refused:
            return self.refused
        for number, test in enumerate(self.tests, 1):
            if not test.passed:
                return f"test {number} of {len(self.tests)}: {test.note}"
        return ""


def refused(tests: int, why: str, *, compiled: bool, timed_out: bool = False) -> ProgramVerdict:
    """On a program that did not come as far as its first test."""
    return ProgramVerdict((TestResult(False, ended=False, timed_out=timed_out),) * tests, compiled, why)


def shown(value: object) -> str:
    """A value in a note: short, and whatever it holds."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # an int of thousands of digits
        return f"a long {type(value).__name__}"


def cut(text: str, length: int = MAX_SHOWN) -> str:
    """At most `length` characters, none of which does anything to a terminal or a file."""
    text = text if len(text) <= length else f"{text[: length - 4]} ..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

"""The reward source `constraints`: whether an answer solves a puzzle of variables, domains and rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from pydantic import BaseModel, ConfigDict

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_constraints.rules import Rule, Value, read_rule, solutions

ASKS = ("assignment", "count")
NONE = "none"
"""the answer to a puzzle without a solution"""
MOST_CHARS = 500
"""characters of an answer"""
_BOX = re.compile(r"\\boxed\s*\{(.*)\}[\s.$]*")
_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*[=:]\s*(-?[0-9]+|[A-Za-z]\w*)\s*")


class ConstraintsOptions(BaseModel):
    """Options of `constraints`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    boxed: bool = False
    """whether the answer must stand in a `\\boxed{}`"""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A problem's puzzle, read."""

    domains: Mapping[str, tuple[Value, ...]]
    rules: tuple[Rule, ...]
    asks: str

    def solves(self, values: Mapping[str, Value]) -> str:
        """Why an assignment is no solution; empty: it is one."""
        if values.keys() != self.domains.keys():
            return f"it must give {', '.join(self.domains)}"
        for name, value in values.items():
            if value not in self.domains[name]:
                return f"{name} = {value} is not among its values"
        broken = [rule.text for rule in self.rules if not rule.holds(values)]
        return f"it breaks {broken[0]}" if broken else ""


def _check_problem(problem: Problem, options: ConstraintsOptions) -> str:
    """Enumerate the solutions.

    Raises:
        ValueError: everything is a solution, or the reference answer is none.
    """
    puzzle = _puzzle(problem)
    count = _count(problem)
    everything = 1
    for values in puzzle.domains.values():
        everything *= len(values)
    if count == everything:
        raise ValueError(f"problem {problem.id!r}: every assignment is a solution: there is nothing to find")
    if problem.answer and (why := _fault(problem, puzzle, problem.answer.strip())):
        raise ValueError(f"problem {problem.id!r}: the reference answer is wrong: {why}")
    return "no solution" if not count else "one solution" if count == 1 else "several solutions"


@reward("constraints", timeout_s=10.0, check_problem=_check_problem, needs_answer=False)
def constraints(problem: Problem, response: Response, *, options: ConstraintsOptions) -> Score:
    r"""1.0 if the answer solves the puzzle, else 0.0.

    The answer is the last line after the thinking, or what its only `\boxed{}` holds: `a = 3, b = 4` with each variable
    once, `none` where there is no solution, or the number of solutions where the puzzle asks for it. Any solution is
    right; the reference answer is not looked at.

    Parts: `extracted`, the answer as it was read, or null.

    Raises:
        ValueError: the problem has no puzzle that can be read and enumerated (the problem is broken, not the response).
    """
    puzzle = _puzzle(problem)
    text, missing = final_line(response.text, options.boxed)
    if missing:
        return Score(0.0, {"extracted": None}, missing)
    why = _fault(problem, puzzle, text)
    return Score(float(not why), {"extracted": text}, why)


def final_line(text: str, boxed: bool) -> tuple[str, str]:
    """The answer, and why there is none."""
    answer = after_thinking(text)
    if answer is None:
        return "", "the think block is not closed"
    line = answer.strip().rpartition("\n")[2].strip()
    if line.count("\\boxed") > 1:
        return "", "more than one box in the last line"
    box = _BOX.search(line)
    if box is None and (boxed or "\\boxed" in line):
        return "", "there is no closed box in the last line"
    content = box[1].strip() if box else line.rstrip(".")
    if not content or len(content) > MOST_CHARS:
        return "", "there is no answer" if not content else f"the answer is longer than {MOST_CHARS} characters"
    return content, ""


def _fault(problem: Problem, puzzle: Puzzle, answer: str) -> str:
    """Why the answer is wrong; empty: it is right."""
    if puzzle.asks == "count":
        count = _count(problem)
        return (
            ""
            if re.fullmatch(r"\d{1,6}", answer, re.ASCII) and int(answer) == count
            else f"there are {count} solutions"
        )
    if answer.lower() == NONE:
        return "there is a solution" if _count(problem) else ""
    values: dict[str, Value] = {}
    for pair in answer.split(","):
        match = _PAIR.fullmatch(pair)
        if match is None or match[1] in values:
            return f"{pair.strip()[:40]!r} is no value of another variable"
        values[match[1]] = int(match[2]) if match[2].lstrip("-").isdecimal() else match[2]
    return puzzle.solves(values)


def _puzzle(problem: Problem) -> Puzzle:
    variables, rules, asks = (problem.fields.get(name) for name in ("variables", "rules", "ask"))
    place = f"problem {problem.id!r}"
    if not isinstance(variables, Mapping) or not variables or not all(map(_is_domain, variables.values())):
        raise ValueError(
            f"{place}: the field 'variables' must be a table of lists of whole numbers or texts, got "
            f"{str(variables)[:200]}"
        )
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, str) for rule in rules):
        raise ValueError(f"{place}: the field 'rules' must be a list of texts, got {str(rules)[:200]}")
    if asks not in (None, *ASKS):
        raise ValueError(f"{place}: the field 'ask' must be one of {', '.join(ASKS)}, got {asks!r}")
    names = frozenset(variables)
    try:
        read = tuple(read_rule(rule, names) for rule in rules)
    except ValueError as error:
        raise ValueError(f"{place}: rule {error}") from None
    return Puzzle({name: tuple(values) for name, values in variables.items()}, read, asks or ASKS[0])


def _is_domain(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(type(value) in (int, str) for value in values)


def _count(problem: Problem) -> int:
    puzzle = _puzzle(problem)
    key = tuple((name, values) for name, values in puzzle.domains.items())
    try:
        return _count_solutions(key, tuple(rule.text for rule in puzzle.rules))
    except ValueError as error:
        raise ValueError(f"problem {problem.id!r}: {error}") from None


@lru_cache(maxsize=1024)  # the responses of a group share their puzzle
def _count_solutions(domains: tuple[tuple[str, tuple[Value, ...]], ...], rules: tuple[str, ...]) -> int:
    names = frozenset(name for name, _ in domains)
    solved = solutions(dict(domains), [read_rule(rule, names) for rule in rules])
    return sum(1 for _ in islice(solved, 10**6))

"""The generator `puzzles`: three whole numbers, and rules that leave one solution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from random import Random
from typing import Any

from reasoner import ConfigError, DataError
from reasoner_constraints.rules import read_rule, solutions

NAMES = ("a", "b", "c")
LARGEST = 30
TRIES = 1000
"""draws without a new puzzle after which there is no more"""
WORDS: tuple[tuple[str, str], ...] = (
    ("{x} + {y} == {n}", "The sum of {x} and {y} is {n}."),
    ("{x} - {y} == {n}", "{x} minus {y} is {n}."),
    ("{x} * {y} == {n}", "{x} times {y} is {n}."),
    ("{x} < {y}", "{x} is smaller than {y}."),
    ("{x} % 2 == {bit}", "{x} is {parity}."),
)
"""a rule, and what it says"""


def puzzles(count: int, seed: int, *, largest: int = 6) -> Iterator[Mapping[str, Any]]:
    """Puzzles, all different: `question`, `answer` (the solution), `variables`, `rules`.

    Args:
        largest: the numbers are 1 to this.

    Raises:
        ConfigError: `largest` is not from 3 to 30.
        DataError: there are not that many different puzzles.
    """
    if isinstance(largest, bool) or not isinstance(largest, int) or not 3 <= largest <= LARGEST:
        raise ConfigError(f"options.largest of puzzles must be a whole number from 3 to {LARGEST}, got {largest!r}.")
    draw = Random(f"puzzles:{seed}")
    seen: set[str] = set()
    for _ in range(count):
        for _ in range(TRIES):
            puzzle = _puzzle(draw, largest)
            if puzzle["question"] not in seen:
                break
        else:
            raise DataError(f"puzzles has only {len(seen)} different ones: lower the limit, or raise `largest`.")
        seen.add(puzzle["question"])
        yield puzzle


def _puzzle(draw: Random, largest: int) -> dict[str, Any]:
    """Rules that hold for three numbers, until no other numbers keep them."""
    hidden = {name: draw.randint(1, largest) for name in NAMES}
    domains = {name: list(range(1, largest + 1)) for name in NAMES}
    rules: dict[str, str] = {}
    while True:
        rule, says = _rule(draw, hidden)
        if rule in rules or not read_rule(rule, frozenset(NAMES)).holds(hidden):
            continue
        rules[rule] = says
        read = [read_rule(rule, frozenset(NAMES)) for rule in rules]
        if len(list(islice(solutions(domains, read), 2))) == 1:
            break
    text = " ".join(rules.values())
    return {
        "question": f"a, b and c are whole numbers from 1 to {largest}. {text} Which numbers are they?",
        "answer": ", ".join(f"{name} = {value}" for name, value in hidden.items()),
        "variables": domains,
        "rules": list(rules),
    }


def _rule(draw: Random, hidden: Mapping[str, int]) -> tuple[str, str]:
    x, y = draw.sample(NAMES, 2)
    rule, says = draw.choice(WORDS)
    n = {"+": hidden[x] + hidden[y], "-": hidden[x] - hidden[y], "*": hidden[x] * hidden[y]}.get(rule[4], 0)
    values = {"x": x, "y": y, "n": n, "bit": hidden[x] % 2, "parity": "odd" if hidden[x] % 2 else "even"}
    return rule.format(**values), says.format(**values)

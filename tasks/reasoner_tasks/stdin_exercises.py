"""The generator `stdin_exercises`: small programming exercises on standard input and output, with their tests.

    level 1    a line in, a line out: arithmetic, words
    level 2    loops: lists of numbers, texts
    level 3    an algorithm of a few lines: primes, ciphers, brackets

Every kind (`stdin_kinds.py`) says what a right output is in two ways: as a function, which computes the tests, and as
the text of a program, which is the reference answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from random import Random
from typing import Any

from reasoner import ConfigError, DataError
from reasoner_tasks.stdin_kinds import KINDS, LEVELS, ExerciseKind, draw_numbers

TESTS = 5
"""per exercise, beside the example that the question shows"""
TRIES = 100
"""draws without something new after which there is no more"""


def stdin_exercises(count: int, seed: int, *, levels: list[int] = list(LEVELS)) -> Iterator[Mapping[str, Any]]:  # noqa: B006
    """Exercises, all different: `question`, `answer` (a program), `tests` (inputs with outputs), `kind`, `level`.

    The levels take turns. The example that a question shows is not among its tests.

    Raises:
        ConfigError: `levels` names none, or one that does not exist.
        DataError: there are not that many different exercises.
    """
    if not levels or not set(levels) <= set(LEVELS):
        raise ConfigError(f"options.levels of stdin_exercises must be some of {list(LEVELS)}, got {levels}.")
    draw = Random(f"stdin_exercises:{seed}")
    seen: set[str] = set()
    for index in range(count):
        level = levels[index % len(levels)]
        yield _exercise(draw, [kind for kind in KINDS if kind.level == level], seen)


def _exercise(draw: Random, kinds: list[ExerciseKind], seen: set[str]) -> dict[str, Any]:
    for _ in range(TRIES):
        kind, numbers = draw.choice(kinds), draw_numbers(draw)
        named = asdict(numbers)
        question = kind.question.format(**named)
        example, *hidden = _inputs(draw, kind)
        tests = [{"input": f"{text}\n", "output": f"{kind.solve(text, numbers)}\n"} for text in hidden]
        if question in seen or len({test["output"] for test in tests}) < 2:  # a program that prints a constant fails
            continue
        seen.add(question)
        shown = f"Example input:\n{example}\nExample output:\n{kind.solve(example, numbers)}"
        return {
            "question": f"{question}\n\n{shown}",
            "answer": kind.program.format(**named),
            "tests": tests,
            "kind": kind.name,
            "level": kind.level,
        }
    raise DataError(f"stdin_exercises has only {len(seen)} different exercises: lower the limit, or add levels.")


def _inputs(draw: Random, kind: ExerciseKind) -> list[str]:
    """Different inputs for the example and the tests; fewer where a kind does not have that many."""
    inputs: dict[str, None] = {}
    for _ in range(TRIES):
        inputs[kind.draw_input(draw)] = None
        if len(inputs) > TESTS:
            break
    return list(inputs)

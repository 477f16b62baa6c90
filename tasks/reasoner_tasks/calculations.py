"""The generators `calculations` and `numbers_to_guess`: problems for tools and for a game."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from reasoner import ConfigError, DataError

OPERATIONS = ("+", "-", "*")
_QUESTIONS = (
    "What is {sum}?",
    "Calculate {sum}.",
    "How much is {sum}?",
    "Find the value of {sum}.",
)
TRIES = 1000
"""draws without a new problem after which there is no more"""


def calculations(
    count: int,
    seed: int,
    *,
    terms: list[int] = [2],  # noqa: B006
    digits: list[int] = [5, 8],  # noqa: B006
    operations: list[str] = list(OPERATIONS),  # noqa: B006
) -> Iterator[Mapping[str, Any]]:
    r"""Calculations with large whole numbers, all different: `question`, `answer`, `expression`.

    A model that cannot do them in its head can do them with a calculator.

    Args:
        terms: how many numbers a calculation has: some of these, in turn.
        digits: the least and the most digits of a number.
        operations: some of `+`, `-`, `*`; a calculation has one or several of them.

    Raises:
        ConfigError: an option is no such list.
        DataError: there are not that many different problems.
    """
    _check(terms, digits, operations)
    draw = Random(f"calculations:{seed}")
    seen: set[str] = set()
    for index in range(count):
        for _ in range(TRIES):
            numbers = [_number(draw, draw.randint(*digits)) for _ in range(terms[index % len(terms)])]
            expression = str(numbers[0])
            for number in numbers[1:]:
                expression += f" {draw.choice(operations)} {number}"
            if expression not in seen:
                break
        else:
            raise DataError(f"calculations has only {len(seen)} different problems of this kind: lower the limit.")
        seen.add(expression)
        question = draw.choice(_QUESTIONS).format(sum=expression)
        yield {"question": question, "answer": str(_result(expression)), "expression": expression}


def numbers_to_guess(count: int, seed: int, *, size: int = 100) -> Iterator[Mapping[str, Any]]:
    """Games of `guess-number`, all different: `question`, `answer` (the number), `low`, `high`.

    Args:
        size: how many numbers are possible; the lowest is from 1 to 1000.

    Raises:
        ConfigError: `size` is not a whole number above 1.
        DataError: there are not that many different games.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 2:
        raise ConfigError(f"options.size of numbers_to_guess must be a whole number above 1, got {size!r}.")
    draw = Random(f"numbers_to_guess:{seed}")
    seen: set[tuple[int, int]] = set()
    for _ in range(count):
        for _ in range(TRIES):
            low = draw.randint(1, 1000)
            number = draw.randint(low, low + size - 1)
            if (low, number) not in seen:
                break
        else:
            raise DataError(f"numbers_to_guess has only {len(seen)} different games of this size: lower the limit.")
        seen.add((low, number))
        question = f"I am thinking of a whole number from {low} to {low + size - 1}. Guess it."
        yield {"question": question, "answer": str(number), "low": low, "high": low + size - 1}


def _number(draw: Random, digits: int) -> int:
    return draw.randrange(10 ** (digits - 1), 10**digits)


def _result(expression: str) -> int:
    """Products first, then sums, without `eval`."""
    total = 0
    for part in expression.replace(" - ", " + -").split(" + "):
        product = 1
        for factor in part.split(" * "):
            product *= int(factor)
        total += product
    return total


def _check(terms: object, digits: object, operations: object) -> None:
    of = "of calculations"
    if not _are_numbers(terms) or not terms or min(terms) < 2:  # type: ignore[call-overload]
        raise ConfigError(f"options.terms {of} must be a list of whole numbers from 2, such as [2, 3]; got {terms!r}.")
    if not _are_numbers(digits) or len(digits) != 2 or not 1 <= digits[0] <= digits[1]:  # type: ignore[arg-type, index]
        raise ConfigError(f"options.digits {of} must be the least and the most digits, such as [5, 8]; got {digits!r}.")
    if not isinstance(operations, list) or not operations or not set(operations) <= set(OPERATIONS):
        raise ConfigError(
            f"options.operations {of} must be a list of some of {', '.join(OPERATIONS)}; got {operations!r}."
        )


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)

"""Cases of a verifier: a problem, a response to it and the value that it must get. They are scored in workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from reasoner.errors import DataError, nearest
from reasoner.io.parsing import parse_json
from reasoner.records import Component, FinishReason, Group, Message, Problem, Response
from reasoner.scoring.base import CaseProgress, Scorer

NEEDED = ("reference", "response", "expected")


@dataclass(frozen=True, slots=True)
class Case:
    """One response and what a verifier must make of it."""

    problem: Problem
    response: Response
    expected: float | None
    """the value; None: the source does not apply to it"""


def make_problem(question: str, answer: str, **fields: Any) -> Problem:
    """A problem of one user message; `fields` are further columns of its row, beside `question` and `answer`."""
    row = {"question": question, "answer": answer, **fields}
    return Problem("problem", (Message("user", question),), answer, row)


def make_response(text: str, *, finish_reason: FinishReason = "stop", tokens: int | None = None) -> Response:
    """A response with that text. Its token ids and log-probabilities are placeholders: 0 and -1.

    Args:
        finish_reason: `length` for one that was cut at its limit.
        tokens: how many it has; None: one per word.
    """
    count = max(1, len(text.split())) if tokens is None else tokens
    return Response(text, (0,) * count, (True,) * count, (-1.0,) * count, finish_reason, 0)


def load_cases(path: Path) -> list[Case]:
    """The cases of a JSON lines file: `{"reference": ..., "response": ..., "expected": number or null}`.

    `question` is optional; other fields reach the verifier in `problem.fields`.

    Raises:
        DataError: no such file, no case in it, or a line that is no case; the message names the line and the field.
    """
    try:
        # not `splitlines`, which also splits at U+2028 and other characters that may stand in a JSON string
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: byte {error.start} cannot be decoded.") from None
    cases = [_case(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise DataError(
            f'{path} holds no cases. Each is a line {{"reference": ..., "response": ..., "expected": 1.0}}.'
        )
    return cases


def score_cases(
    scorer: Scorer, cases: Sequence[tuple[Problem, Response]], progress: CaseProgress = lambda done: None
) -> list[tuple[Component, ...]]:
    """The components of each response, in the order of the cases. Every response is a group of its own.

    Problems that share an id get their place before it: results are told apart by it.
    """
    shared = len({problem.id for problem, _ in cases}) < len(cases)
    groups = [
        Group(replace(problem, id=f"{index}:{problem.id}") if shared else problem, (0,), (response,))
        for index, (problem, response) in enumerate(cases)
    ]
    found: dict[str, tuple[Component, ...]] = {}
    for scored in scorer.score(groups):
        found[scored.group.problem.id] = scored.components[0]
        progress(len(found))
    return [found[group.problem.id] for group in groups]


def _case(path: Path, number: int, line: str) -> Case:
    place = f"{path}, line {number}"
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{place}: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: must be a JSON object, got {type(row).__name__}.")
    for name in NEEDED:
        if name not in row:
            others = [key for key in row if key not in NEEDED]
            raise DataError(f"{place}: the field {name!r} is missing.{nearest(name, others)} It has: {', '.join(row)}.")
    expected = row.pop("expected")
    if expected is not None and (not isinstance(expected, Real) or isinstance(expected, bool)):
        raise DataError(f"{place}, field 'expected': must be a number or null, got {expected!r}.")
    reference, response = str(row.pop("reference")), row.pop("response")
    if not isinstance(response, str):
        raise DataError(f"{place}, field 'response': must be text, got {type(response).__name__}.")
    problem = make_problem(str(row.pop("question", "")), reference, **row)
    problem = replace(problem, id=f"{path.stem}:{number}")
    return Case(problem, make_response(response), None if expected is None else float(expected))

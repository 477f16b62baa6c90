"""The reward source `sql`: 1.0 if a query returns what the reference query returns, on every database."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from reasoner import (
    ISOLATED,
    PYTHON,
    Limits,
    Problem,
    Response,
    Sandbox,
    SandboxError,
    Score,
    after_thinking,
    permitted_sandbox,
    reward,
)

MOST_ROWS = 1000
"""rows of a result; a query that returns more is wrong"""
MOST_CHARS = 20_000
"""characters of a query"""
TOLERANCE = 1e-9
"""of the larger of two numbers: how far they may be from each other"""
SHOWN = 500
"""characters of a query that are kept with its score"""
INSIDE = Path(__file__).with_name("inside.py")
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)


class SqlOptions(BaseModel):
    """Options of `sql`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ordered: bool = False
    """whether the order of the rows counts, where the problem's field `ordered` does not say it"""
    timeout_s: Annotated[float, Field(gt=0.0, le=20.0)] = 5.0
    """wall seconds for the query on all databases"""
    memory_mb: int = Field(default=256, ge=64)
    """MiB of memory"""
    sandbox: str = "auto"
    """a sandbox's name (`reasoner doctor`) or the address of a service; `auto`: the best that works here"""


class _BadQueryError(ValueError):
    """The query has no result; the message says why."""


def _preflight(options: SqlOptions) -> str:
    return f"sandbox: {permitted_sandbox(options.sandbox).name}"


def _check_problem(problem: Problem, options: SqlOptions) -> str:
    """Run the reference query.

    Raises:
        ValueError: it fails, or returns the same rows everywhere, which a query of constants would too.
    """
    _is_ordered(problem, options)
    results = _reference_results(problem, options)
    bags = {json.dumps(sorted(map(str, rows))) for rows in results}
    if len(bags) < 2:
        raise ValueError(
            f"problem {problem.id!r}: the reference query returns the same rows on all databases, so a query of "
            "constants would be right; add a database with other rows"
        )
    return "different results"


@reward(
    "sql",
    timeout_s=60.0,
    preflight=_preflight,
    check_problem=_check_problem,
    workers=len(os.sched_getaffinity(0)),
)
def sql(problem: Problem, response: Response, *, options: SqlOptions) -> Score:
    """1.0 if the query returns what the reference query returns on every database of the problem, else 0.0.

    The query is the last fenced block labelled `sql` or not at all, or the whole answer. It runs in a sandbox, may only
    read, and is one statement. Rows are compared as a bag, or in their order (`ordered`); names of columns do not
    count. What is expected comes from the reference query, which is run before and apart from it.

    Parts: `query`, cut; `rows`, how many it returned on each database.

    Raises:
        ValueError: the problem has no databases, or the reference fails (the problem is broken, not the response).
        SandboxError: the sandbox did not do its work.
    """
    expected = _reference_results(problem, options)
    text = after_thinking(response.text)
    if text is None:
        return Score(0.0, {"query": None, "rows": []}, "the think block is not closed")
    query = query_in(text)
    if not query or len(query) > MOST_CHARS:
        return Score(0.0, {"query": query[:SHOWN], "rows": []}, "no query" if not query else "the query is too long")
    try:
        results = _run(_databases(problem), query, options)
    except _BadQueryError as error:
        return Score(0.0, {"query": query[:SHOWN], "rows": []}, str(error))
    ordered = _is_ordered(problem, options)
    differs = [
        i
        for i, (rows, expected_rows) in enumerate(zip(results, expected, strict=True), 1)
        if not same(rows, expected_rows, ordered)
    ]
    parts = {"query": query[:SHOWN], "rows": [len(rows) for rows in results]}
    return Score(float(not differs), parts, f"other rows on database {differs[0]}" if differs else "")


def query_in(text: str) -> str:
    """The query of an answer: its last fenced block, or all of it."""
    queries = [body for label, body in _FENCE.findall(text) if label.lower() in ("", "sql", "sqlite")]
    return (queries[-1] if queries else "" if "```" in text else text).strip()


def same(rows: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]], ordered: bool) -> bool:
    """Whether two results are equal, as bags of rows or as lists; numbers need only be close (`TOLERANCE`)."""
    if len(rows) != len(wanted):
        return False
    if ordered:
        pairs = zip(rows, wanted, strict=True)
        return all(_frame(row) == _frame(other) and _are_close(row, other) for row, other in pairs)
    left: dict[tuple[Any, ...], list[Sequence[Any]]] = {}
    for other in sorted(wanted, key=_numbers):
        left.setdefault(_frame(other), []).append(other)
    for row in sorted(rows, key=_numbers):  # so that a row's equal is among the first that are left
        candidates = left.get(_frame(row), [])
        at = next((at for at, other in enumerate(candidates) if _are_close(row, other)), None)
        if at is None:
            return False
        del candidates[at]
    return True


def _frame(row: Sequence[Any]) -> tuple[Any, ...]:
    """What must be the same in two rows: all values but numbers, and where these are."""
    return tuple(
        int if isinstance(value, int | float) else value["hex"] if isinstance(value, dict) else value for value in row
    )


def _numbers(row: Sequence[Any]) -> list[int | float]:
    return [value for value in row if isinstance(value, int | float)]


def _are_close(row: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether the numbers of two rows are the same: whole ones exactly, others nearly."""
    return all(
        left == right
        if isinstance(left, int) and isinstance(right, int)
        else math.isclose(left, right, rel_tol=TOLERANCE)
        for left, right in zip(_numbers(row), _numbers(other), strict=True)
    )


def _is_ordered(problem: Problem, options: SqlOptions) -> bool:
    """Whether the order of the rows counts.

    Raises:
        ValueError: the problem's field `ordered` is neither true nor false nor null.
    """
    own = problem.fields.get("ordered")
    if own is None:
        return options.ordered
    if not isinstance(own, bool):
        raise ValueError(f"problem {problem.id!r}: the field 'ordered' must be true, false or null, got {own!r}")
    return own


def _databases(problem: Problem) -> tuple[str, ...]:
    value = problem.fields.get("databases")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(item, str) for item in value):
        raise ValueError(
            f"problem {problem.id!r}: the field 'databases' must be a list of two SQL scripts or more, got "
            f"{str(value)[:200]}"
        )
    return tuple(value)


def _reference_results(problem: Problem, options: SqlOptions) -> tuple[Any, ...]:
    databases, query = _databases(problem), query_in(problem.answer)
    try:
        return _reference(databases, query, options)
    except _BadQueryError as error:
        raise ValueError(f"problem {problem.id!r}: the reference query fails: {error}; got {query[:200]!r}") from error


@lru_cache(maxsize=256)  # the responses of a group share their reference
def _reference(databases: tuple[str, ...], query: str, options: SqlOptions) -> tuple[Any, ...]:
    return tuple(_run(databases, query, options))


def _run(databases: Sequence[str], query: str, options: SqlOptions) -> list[list[list[Any]]]:
    """The rows of a query on each database.

    Raises:
        _BadQueryError: SQLite refuses it, or it reached a limit.
        SandboxError: the sandbox failed.
    """
    job = json.dumps({"databases": list(databases), "query": query, "rows": MOST_ROWS})
    files = {"main.py": INSIDE.read_bytes(), "job.json": job.encode("utf-8", "replace")}
    limits = Limits(wall_s=options.timeout_s, cpu_s=options.timeout_s, memory_mb=options.memory_mb, processes=4)
    outcome = _sandbox(options.sandbox).run([PYTHON, *ISOLATED, "main.py"], files, b"", limits)
    if outcome.end != "exit":
        raise _BadQueryError(f"stopped at the limit: {outcome.end}")
    if not outcome.ok:
        raise SandboxError(f"the databases could not be queried: {outcome.stderr[-500:].decode('utf-8', 'replace')}")
    results = [json.loads(line) for line in outcome.stdout.splitlines()]
    for result in results:
        if "error" in result:
            raise _BadQueryError(result["error"])
    return [result["rows"] for result in results]


@cache
def _sandbox(choice: str) -> Sandbox:
    """Found once per worker: it is tried before it is used."""
    return permitted_sandbox(choice)

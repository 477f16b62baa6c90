"""Rows of a program as groups of responses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from numbers import Real
from typing import Any, get_args

from reasoner.errors import UserError, nearest
from reasoner.records import FinishReason, Group, Message, Problem
from reasoner.testing.cases import make_response

EXAMPLE = "{'question': ..., 'answer': ..., 'response': ...}"
KNOWN = ("question", "answer", "response", "fields", "finish_reason", "tokens", "problem", "sample")
"""columns of a row; of others a problem's fields are made"""
OF_SCORES = (
    *("step", "policy_version", "turns", "reward", "credit", "dropped"),
    *("token_ids", "token_written", "token_logprobs", "token_weights"),
)
"""columns of a frame of `Run.rollouts` that say nothing of the problem; nor do those that begin with one of"""
OF_SOURCES = ("reward/", "note/", "failure/")


def groups_of(responses: Any) -> list[Group]:
    """The rows as groups: those of one problem that follow each other.

    Args:
        responses: tables, or a frame of pandas or polars; docs/python.md has the columns.

    Raises:
        UserError: there is none, or one is no row with a text `response`.
    """
    groups = []
    for _, rows_of_group in groupby(enumerate(_rows(responses)), key=lambda numbered: _problem_of(numbered[1])):
        rows = list(rows_of_group)
        first, row = rows[0]
        question, answer = str(row.get("question", "")), str(row.get("answer", ""))
        fields = {"question": question, "answer": answer, **_fields(row)}
        problem = Problem(f"responses:{first}", (Message("user", question),), answer, fields)
        written = (
            make_response(
                row["response"],
                finish_reason=row.get("finish_reason", "stop"),
                tokens=int(row["tokens"]) if "tokens" in row else None,
            )
            for _, row in rows
        )
        groups.append(Group(problem, (0,), tuple(written)))
    if not groups:
        raise UserError("there are no responses to score.")
    return groups


def _rows(responses: Any) -> Iterator[Mapping[str, Any]]:
    if hasattr(responses, "to_dicts"):  # of polars
        responses = responses.to_dicts()
    elif hasattr(responses, "to_dict") and not isinstance(responses, Mapping):  # of pandas
        responses = responses.to_dict("records")
    if isinstance(responses, Mapping) or not isinstance(responses, Iterable):
        raise UserError(f"responses takes a list of rows: [{EXAMPLE}].")
    for number, row in enumerate(responses):
        if not isinstance(row, Mapping):
            raise UserError(f"response {number}: must be a row such as {EXAMPLE}, got {type(row).__name__}.")
        # A frame has None or NaN where a row lacks a value: they are no answer "nan".
        present = {name: value for name, value in row.items() if name not in KNOWN or not _is_missing(value)}
        _check(number, present)
        yield present


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check(number: int, row: Mapping[str, Any]) -> None:
    if not isinstance(row.get("response"), str):
        if "response" in row:
            got = f", got {type(row['response']).__name__}."
        else:
            got = f".{nearest('response', map(str, row))} It has: {', '.join(map(str, row)) or 'nothing'}."
        raise UserError(f"response {number}: the column 'response' must be text{got}")
    reasons = get_args(FinishReason)
    for name, fits, expected in (
        ("question", _is_text, "text or a number"),
        ("answer", _is_text, "text or a number"),
        ("fields", lambda value: isinstance(value, Mapping), "a table"),
        ("finish_reason", lambda value: value in reasons, f"one of {', '.join(reasons)}"),
        ("tokens", lambda value: isinstance(value, Real) and 1 <= float(value) < math.inf, "a number above 0"),
    ):
        if name in row and not fits(row[name]):
            raise UserError(f"response {number}: the column {name!r} must be {expected}, got {str(row[name])[:60]!r}.")
    for name, value in _fields(row).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"response {number}: the column {name!r} goes to the workers as JSON, got {type(value).__name__}: "
                f"{error}. Make text, numbers, lists or tables of it, or leave it out."
            ) from None


def _is_text(value: object) -> bool:
    return isinstance(value, str | Real) and not isinstance(value, bool)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """What verifiers find in `problem.fields`, without what a frame has in the place of a missing value."""
    others = {
        str(name): value
        for name, value in row.items()
        if name not in (*KNOWN, *OF_SCORES) and not str(name).startswith(OF_SOURCES)
    }
    fields = {**others, **(row.get("fields") or {})}
    return {name: value for name, value in fields.items() if value is None or not _is_missing(value)}


def _problem_of(row: Mapping[str, Any]) -> object:
    if row.get("problem") is not None:
        return row.get("step"), row["problem"]
    return row.get("question"), row.get("answer"), repr(_fields(row))

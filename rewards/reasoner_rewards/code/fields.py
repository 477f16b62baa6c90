"""The fields of a problem that hold its tests. What is wrong with them is the problem's fault, not the response's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reasoner import Problem


def text_field(problem: Problem, name: str) -> str:
    """A text, empty where the problem has none; a list of texts as lines.

    Raises:
        ValueError: it is something else.
    """
    value = problem.fields.get(name)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"problem {problem.id!r}, field {name!r}: text is needed, got {str(value)[:200]}")
    return value


def list_of_tests(problem: Problem) -> list[Any]:
    """The field `tests`, a list that is not empty; also as JSON text, as data sets on the hub often have it.

    Raises:
        ValueError: it is missing or something else.
    """
    value = problem.fields.get("tests")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not value:
        raise missing(problem, "a list")
    return value


def without_nulls(test: Any, kept: str = "") -> Any:
    """A test without the keys whose value is null, but for `kept`: in Parquet all tests have the same keys, and null
    stands where one has none."""
    if not isinstance(test, Mapping):
        return test
    return {key: value for key, value in test.items() if value is not None or key == kept}


def missing(problem: Problem, needed: str) -> ValueError:
    """For a problem whose field `tests` is not what it must be."""
    value = str(problem.fields.get("tests"))[:200]
    return ValueError(
        f"problem {problem.id!r}: the field 'tests' must be {needed}, got {value}. Its fields: "
        f"{', '.join(problem.fields) or 'none'}. If the tests have another name, map it: "
        "--set data.train.columns.tests=FIELD, and the same for data.eval."
    )

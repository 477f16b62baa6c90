"""Tables for a notebook: a frame of pandas or, where that is not installed, of polars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from reasoner.errors import MissingDependencyError
from reasoner.records import Component


def to_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """The columns, of equal lengths, as a `pandas.DataFrame`, or as a `polars.DataFrame`.

    Raises:
        MissingDependencyError: neither is installed.
    """
    if find_spec("pandas"):
        return import_module("pandas").DataFrame(dict(columns))
    if find_spec("polars"):
        return import_module("polars").DataFrame(dict(columns), strict=False, infer_schema_length=None)
    raise MissingDependencyError(
        "tables need pandas or polars, and neither is installed: pip install pandas. Without them the same figures are "
        "in the run folder: metrics.jsonl, evaluations.jsonl, rollouts/*.parquet."
    )


def columns_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, in the order in which their names first appear; None where a row has no such value."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def verdict(part: Component) -> dict[str, Any]:
    """One source's verdict on a response, as columns."""
    failure = f"{part.failure.kind}: {part.failure.message}" if part.failure else None
    return {
        f"reward/{part.source}": part.value,
        f"note/{part.source}": part.note,
        f"failure/{part.source}": failure,
    }

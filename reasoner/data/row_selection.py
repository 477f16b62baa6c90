"""Which rows of a source are used, in which order, and which are held out.

rows --columns--> renamed --order--> made, up to the limit --holdout--> to train on, to evaluate on
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from reasoner.config import SourceConfig
from reasoner.data.columns import Columns
from reasoner.data.decontamination import hold_out
from reasoner.data.row_report import RowError, RowReport
from reasoner.data.rows import Row, read_rows
from reasoner.errors import ConfigError
from reasoner.plugins.hookspecs import Generator
from reasoner.records import Message, Problem

T = TypeVar("T")

HELD_OUT_SEED = 0
"""of the shuffle of evaluation problems, whatever `run.seed` is: runs with other seeds are evaluated on the same"""


def load_rows(source: SourceConfig, generators: Mapping[str, Generator], section: str, report: RowReport) -> list[Row]:
    """The rows of a source in its own order, with the names of `columns`.

    Raises:
        DataError: the source is missing, unreachable, empty, or malformed as a whole.
        ConfigError: there is no such generator, it has no such option, a column is no template, or none of the rows
            has it.
    """
    report.follow(section, source)
    rows: list[Row] = []
    mapped: list[Row] = []
    with Columns(source.columns, section, source.missing) as columns:
        for row, bad in read_rows(source, generators, section):
            if bad is None:
                rows.append(row)
            else:
                report.add(section, bad)
        for row in _fill_missing(rows) if source.missing == "empty" else rows:
            with report.collecting(section):
                mapped.append(columns(row))
        columns.check(rows)
    return mapped


def _fill_missing(rows: Sequence[Row]) -> list[Row]:
    """The rows with null for a field that others have; but for what every problem needs."""
    names = dict.fromkeys(name for row in rows for name in row.fields if name not in ("question", "answer"))
    return [replace(row, fields={**names, **row.fields}) for row in rows]


def ordered(items: Iterable[T], source: SourceConfig, seed: int) -> list[T]:
    """The items in the order in which a source's are taken."""
    shuffled = list(items)
    if source.shuffle:
        random.Random(seed).shuffle(shuffled)
    return shuffled


def build(
    rows: Iterable[Row],
    limit: int | None,
    section: str,
    report: RowReport,
    make: Callable[[Row], T],
    texts: Callable[[T], Sequence[str]],
) -> list[T]:
    """What becomes of the rows, of the first `limit` that can be used.

    Args:
        make: makes something of a row, or raises `RowError`.
        texts: all that it says, by which rows that say the same are known.
    """
    built: list[T] = []
    bad: list[tuple[int, RowError]] = []
    for row in rows:
        if limit is not None and len(built) == limit:
            break
        try:
            item = make(row)
            if not report.is_repeated(section, row.place, texts(item)):
                built.append(item)
        except RowError as error:
            bad.append((row.index, error))
    for _, wrong in sorted(bad, key=lambda entry: entry[0]):  # the first ones of the source are named
        report.add(section, wrong)
    report.keep(section, len(built))
    return built


def split_items(
    items: Sequence[T],
    problem_of: Callable[[T], Problem],
    source: SourceConfig,
    seed: int,
    share: float,
    examples: Sequence[Message],
    section: str,
    report: RowReport,
) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Items to train on and held-out ones (`data.holdout`), in the order in which they are taken; `limit` counts both.

    Raises:
        ConfigError: nothing is left to train on.
        DataError: nothing is left, and there are bad rows, which are told instead.
    """
    train, held_out = hold_out(items, problem_of, share, most=source.limit, examples=examples)
    kept = ordered(train, source, seed)
    kept = kept if source.limit is None else kept[: max(0, source.limit - len(held_out))]
    if items and not kept:
        report.settle()
        raise ConfigError(
            f"data.holdout = {share:g} of the {len(items)} rows of {section} leaves nothing to train on: lower it, or "
            "give more rows. Rows that ask the same are held out together."
        )
    return tuple(kept), tuple(ordered(held_out, source, HELD_OUT_SEED))

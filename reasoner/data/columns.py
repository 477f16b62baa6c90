"""The fields of rows by the names that a task knows them by: `data.<source>.columns`.

A name stands for another field, for a dotted path (`reward_model.ground_truth`), or for a Jinja template of the row. A
template that only looks something up, such as `{{ choices[answer] }}` or a list of fields, gives the value as it is, a
list or an object too; any other gives text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Self

import jinja2
from jinja2 import nodes

from reasoner.config import MissingPolicy
from reasoner.data.layouts.paths import MISSING, look_up, paths_of
from reasoner.data.prompts.template_process import environment, is_variable
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError, parse
from reasoner.data.row_report import RowError
from reasoner.data.rows import Row, field_names
from reasoner.errors import ConfigError, nearest
from reasoner.io.safe_text import storable

_LOOKUP = (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const, nodes.List)
NAMED = 30
"""paths of a row that a message names"""


def is_template(column: str) -> bool:
    """Whether a column is a template, and no name."""
    return "{{" in column or "{%" in column


class Columns:
    """The mapping of one source; to be closed, as some templates have a process.

    Raises:
        ConfigError: one of them is no Jinja template.
    """

    def __init__(self, columns: Mapping[str, str], section: str, missing: MissingPolicy = "refuse") -> None:
        """
        Args:
            section: the configuration section of the source (`data.train`), for messages.
            missing: handling of what a row does not have, or has as null (`data.<source>.missing`).
        """
        self._section, self._missing = section, missing
        self._names = {name: column for name, column in columns.items() if not is_template(column)}
        self._unseen = dict(self._names)
        """those that no row had so far"""
        self._lookups: dict[str, Callable[..., Any]] = {}
        self._templates: dict[str, Template] = {}
        for name, column in columns.items():
            if name in self._names:
                continue
            try:
                lookup = _lookup(column.strip())
                if lookup is None:
                    self._templates[name] = Template(column, missing=missing)
                else:
                    self._lookups[name] = lookup
            except jinja2.TemplateSyntaxError as error:
                why = (error.message or "").rstrip(".")
                raise ConfigError(f"{section}.columns.{name} = {column!r}: not a Jinja template: {why}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for template in self._templates.values():
            template.close()

    def __call__(self, row: Row) -> Row:
        """The row with the names of the mapping beside its own.

        Raises:
            RowError: it does not have a field, or what a template looks up.
            ConfigError: a template takes more time or memory than one may.
        """
        fields = {name: look_up(row.fields, column) for name, column in self._names.items()}
        absent = [name for name, value in fields.items() if value is MISSING]
        for name in fields.keys() - absent:
            self._unseen.pop(name, None)
        if absent and self._missing == "refuse":
            column = self._names[absent[0]]
            raise RowError(
                row.place,
                f"{self._section}.columns.{absent[0]} is {column!r}, which the row does not have."
                f"{nearest(column, paths_of(row.fields))} It has: {_path_list(row)}.",
                f"without the field {column!r}",
            )
        fields |= dict.fromkeys(absent)
        for name in (*self._lookups, *self._templates):
            fields[name] = self._value(row, name)
        return replace(row, fields={**row.fields, **fields}) if fields else row

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse a name that none of the rows has, which are all of the source as they were read.

        Raises:
            ConfigError: with the nearest name that there is.
        """
        for name, column in self._unseen.items() if rows else ():
            raise ConfigError(
                f"{self._section}.columns.{name} = {column!r}: none of the {len(rows):,} rows has it, such as "
                f"{rows[0].place}.{nearest(column, paths_of(rows[0].fields))} It has: {_path_list(rows[0])}. To take "
                f"the names as they are: --set '{self._section}.columns={{}}'."
            )

    def _value(self, row: Row, name: str) -> Any:
        key = f"{self._section}.columns.{name}"
        try:
            if name in self._templates:
                return self._templates[name].render(row.fields)
            value = self._present(self._lookups[name](row.fields))
            if value is not None and not isinstance(value, str | int | float | bool | list | dict):
                raise FailedError(f"it gives a {type(value).__name__}; write row['name'] for a field of that name")
        except jinja2.UndefinedError as error:
            complaint = f"{key} does not fit: {error.message}. The row has: {field_names(row.fields)}."
            raise RowError(row.place, complaint, f"that {key} does not fit") from None
        except UnboundedError as error:
            raise ConfigError(f"{key} fails on {row.place}: {error}.") from None
        except Exception as error:  # a lookup can raise anything, such as for a forbidden attribute
            raise RowError(row.place, f"{key} fails: {str(error).rstrip('.')}.", f"on which {key} fails") from error
        return storable(value)

    def _present(self, value: Any) -> Any:
        """What was looked up, with null for what is missing inside of a field, where that may be."""
        if isinstance(value, list):
            return [self._present(item) for item in value]
        if not isinstance(value, jinja2.Undefined):
            return value
        if self._missing == "refuse" or is_variable(value):
            str(value)  # it raises what is undefined
        return None


def _path_list(row: Row) -> str:
    """The paths of a row, for messages."""
    paths = [*islice(paths_of(row.fields), NAMED + 1)]
    return field_names(dict.fromkeys(paths)) if len(paths) <= NAMED else f"{', '.join(paths[:NAMED])}, ..."


def _lookup(template: str) -> Callable[..., Any] | None:
    """A function of the row's fields, where all that the template does is to look a value up."""
    body = parse(template).body
    if not (template.startswith("{{") and template.endswith("}}")):
        return None
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    expression = body[0].nodes[0]
    if not all(isinstance(node, _LOOKUP) for node in (expression, *expression.find_all(nodes.Node))):
        return None
    text = template.removeprefix("{{").removesuffix("}}").strip("-+ \n\t")
    return environment("prompt").compile_expression(text, undefined_to_none=False)

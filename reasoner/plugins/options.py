"""Options and arguments that a plugin declares: pydantic models read off signatures and docstrings, and checked."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from reasoner.errors import ConfigError, ReasonerError, UserError, nearest

ARGS = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", flags=re.MULTILINE)
"""the section of a docstring that says what each parameter means"""


class Configurable:
    """What a plugin declares with options and a preflight: a reward source, a tool or an environment."""

    __slots__ = ()
    kind: ClassVar[str]
    """what messages call it, before its name"""
    name: str
    options: type[BaseModel]
    preflight: Callable[[Any], str] | None

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The complete options, defaults filled in.

        Raises:
            ConfigError: an unknown option or a value of the wrong type.
        """
        return check_options(f"{self.kind} {self.name!r}", self.options, options)

    def checked_model(self, options: Mapping[str, Any]) -> BaseModel:
        """The complete options as the model; raises as `check_options`."""
        return self.options.model_validate(self.check_options(options))

    def ready(self, options: Mapping[str, Any]) -> str:
        """What the preflight says of this machine, in one line; empty: there is none.

        Raises:
            UserError: something that a call will need is not there; it says what to install or set.
        """
        if self.preflight is None:
            return ""
        model = self.checked_model(options)
        try:
            line = self.preflight(model)
            if not isinstance(line, str) or len(line.splitlines()) != 1:
                raise TypeError(f"it must return one line of text, got {line!r}")
        except ReasonerError as error:
            raise UserError(f"{self.kind} {self.name!r} cannot work here: {error}") from error
        except Exception as error:
            raise UserError(f"{self.kind} {self.name!r}: preflight failed: {type(error).__name__}: {error}") from error
        return line


def check_seconds(owner: str, timeout_s: float) -> None:
    """Raise ValueError for seconds that are none."""
    if not isinstance(timeout_s, int | float) or not timeout_s > 0:
        raise ValueError(f"{owner}: timeout_s must be above 0 seconds, got {timeout_s!r}")


def check_options(owner: str, model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The complete options, defaults filled in.

    Args:
        owner: what messages call the one whose options they are: `reward source 'math'`.

    Raises:
        ConfigError: an unknown option or a value of the wrong type.
    """
    for key in options:
        if key not in model.model_fields:
            allowed = sorted(model.model_fields)
            raise ConfigError(
                f"{owner} has no option {key!r}.{nearest(key, allowed)} It has: {', '.join(allowed) or 'none'}."
            )
    try:
        return model.model_validate(dict(options)).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{owner}, option {key!r}: {first['msg']}, got {first['input']!r}.") from error


def whole_model(function: Callable[..., Any]) -> type[BaseModel] | None:
    """The model of a function whose only keyword-only parameter is `options`, annotated with one."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    hint = get_type_hints(function).get("options") if names == ["options"] else None
    return hint if isinstance(hint, type) and issubclass(hint, BaseModel) else None


def model_of(name: str, function: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> type[BaseModel]:
    """A model with a field for each of these parameters of a function; unknown fields are refused."""
    hints, meanings = get_type_hints(function, include_extras=True), meanings_of(function)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        described = Field(default, description=meanings.get(parameter.name))
        fields[parameter.name] = (hints.get(parameter.name, Any), described)
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


@cache
def field_documents(model: type[BaseModel]) -> dict[str, str]:
    """What each field of a model means: its description, or the docstring under it.

    The source is read when somebody asks. pydantic's `use_attribute_docstrings` reads it when the class is made: in
    every host and rank, and the longer the more modules there are.
    """
    documents: dict[str, str] = {}
    for owner in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        documents |= _attribute_docstrings(owner)
    described = {name: field.description for name, field in model.model_fields.items() if field.description}
    return {name: text for name, text in (documents | described).items() if name in model.model_fields}


def _attribute_docstrings(owner: type) -> dict[str, str]:
    try:
        source = inspect.getsource(owner)
        tree = ast.parse(f"if True:\n{source}" if source[0].isspace() else source)
    except (OSError, TypeError, SyntaxError):  # made by a program, or its file has been edited meanwhile
        return {}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner.__name__]
    body = classes[0].body if classes else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def prose_of(documented: object) -> str:
    """The docstring without its `Args:`, the lines of a paragraph joined."""
    text = ARGS.sub("", inspect.getdoc(documented) or "")
    return re.sub(r"(?<=\S)\n(?=[^\s*-])", " ", text).strip()


def meanings_of(documented: object) -> dict[str, str]:
    """What the `Args:` section of the docstring says of each parameter."""
    section = ARGS.search(inspect.getdoc(documented) or "")
    if section is None:
        return {}
    meanings: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc("\n" + section[1]).splitlines():
        if start := re.match(r"(\w+)(?: \(.*?\))?:\s*(.*)", line):
            name, meanings[start[1]] = start[1], start[2]
        elif name:
            meanings[name] = f"{meanings[name]} {line.strip()}".strip()
    return meanings

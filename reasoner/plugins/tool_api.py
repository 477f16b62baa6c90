"""What authors of tools use: the `@tool` decorator and the type it makes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ValidationError

from reasoner.errors import nearest
from reasoner.plugins.options import Configurable, check_seconds, model_of, prose_of, whole_model

ToolFunction = Callable[..., Any]
"""A function, `async def` or not, that returns text; or a class whose instances are called, with `close` if it has to
let something go."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""what every tool format and chat template can write"""


@dataclass(frozen=True, slots=True)
class Tool(Configurable):
    """A tool that the policy can call. Calling it calls the function, or makes an instance of the class."""

    kind = "tool"
    name: str
    function: ToolFunction
    description: str
    """what it does, for the policy"""
    arguments: type[BaseModel]
    """what the policy writes, as a pydantic model"""
    options: type[BaseModel]
    """what the task sets, as a pydantic model"""
    timeout_s: float
    """seconds per call"""
    keeps_state: bool | Callable[[Any], bool] = False
    """whether one instance serves all calls of a response, in a worker of its own; or a function of the options (a
    model) that says so"""
    prepare: Callable[[], None] | None = None
    """runs once before workers are forked: slow imports belong here, not into a call's deadline"""
    preflight: Callable[[Any], str] | None = None
    """takes the options (a model) in the main process before anything is loaded; see `Tool.ready`"""
    takes_model: bool = False
    """whether it takes its options as one model, in the parameter `options`"""
    is_method: bool = False
    """whether it is a method of an environment"""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """What the function returns, a coroutine for an async one; or an instance of the class."""
        return self.function(*args, **keywords)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method of an environment, called on an instance: the function, bound to it."""
        return self if instance is None or not self.is_method else partial(self.function, instance)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        schema = _without_titles(self.arguments.model_json_schema())
        return {"type": "object", "properties": {}, **schema}

    @property
    def is_class(self) -> bool:
        """Whether instances are called."""
        return inspect.isclass(self.function)

    def check_arguments(self, arguments: Mapping[str, Any]) -> str:
        """What is wrong with the arguments of a call, in words for the policy; empty: nothing."""
        allowed = list(self.arguments.model_fields)
        takes = f"It takes: {', '.join(allowed) or 'no arguments'}."
        for name in arguments:
            if name not in allowed:
                return f"{self.name} has no argument {name!r}.{nearest(name, allowed)} {takes}"
        try:
            self.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "missing":
                return f"{self.name} needs the argument {name!r}. {takes}"
            return f"{self.name}, argument {name!r}: {first['msg']}."
        return ""

    def values(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The checked arguments as the function takes them, defaults filled in."""
        model = self.arguments.model_validate(dict(arguments))
        return {name: getattr(model, name) for name in self.arguments.model_fields}

    def is_stateful(self, options: Mapping[str, Any]) -> bool:
        """Whether one instance serves all calls of a response, with these options."""
        keeps = self.keeps_state
        return keeps if isinstance(keeps, bool) else keeps(self.checked_model(options))

    def opened(self, options: Mapping[str, Any]) -> ToolFunction:
        """What is called with the arguments: the function with its options, or an instance of the class."""
        keywords = {"options": self.options.model_validate(dict(options))} if self.takes_model else dict(options)
        opened: ToolFunction = self.function(**keywords) if self.is_class else partial(self.function, **keywords)
        return opened


@overload
def tool(name: ToolFunction, /) -> Tool: ...


@overload
def tool(
    name: str | None = None,
    *,
    timeout_s: float = 10.0,
    keeps_state: bool | Callable[[Any], bool] | None = None,
    prepare: Callable[[], None] | None = None,
    preflight: Callable[[Any], str] | None = None,
) -> Callable[[ToolFunction], Tool]: ...


def tool(
    name: str | ToolFunction | None = None,
    *,
    timeout_s: float = 10.0,
    keeps_state: bool | Callable[[Any], bool] | None = None,
    prepare: Callable[[], None] | None = None,
    preflight: Callable[[Any], str] | None = None,
) -> Tool | Callable[[ToolFunction], Tool]:
    """Make a tool of a function or a class. It returns text, which the policy reads.

    What stands before the `*` are the arguments of a call: the policy writes them, and their names, annotations,
    defaults and the `Args:` of the docstring make the JSON schema that it is shown, with the docstring as the
    description. What stands behind the `*` are options: the task sets them in `[environment.tool_options.NAME]`, and
    the policy does not know of them.

        @tool("convert", timeout_s=1.0)
        def convert(amount: float, unit: str, *, places: int = 2) -> str:
            '''Convert an amount to metres.

            Args:
                amount: how many
                unit: `mile`, `yard` or `foot`
                places: digits after the point
            '''

    A class has its options in `__init__`, behind a `*`, and the arguments in `__call__`; `close` is called at the end
    if it is there. One instance serves all calls of a response, so it can keep state; with `keeps_state=False` every
    call has an instance of its own. `keeps_state` may also be a function that takes the options, as a model.

    A method of an environment that is marked with `@tool` is a tool that this environment brings; it has no options.

    Functions may be `async def`. A call runs in a worker process that is killed with everything it started when
    `timeout_s` seconds have passed. One that raises, hangs, crashes or returns no text is a recorded error, and the
    policy reads what was wrong. `prepare` and `preflight` are those of `@reward`.

    Raises:
        ValueError: an argument is out of range.
        TypeError: the function cannot be a tool; the message says why.
    """
    if callable(name):
        return tool()(name)

    def decorate(function: ToolFunction) -> Tool:
        return _make_tool(name, function, timeout_s, keeps_state, prepare, preflight)

    return decorate


def _make_tool(
    name: str | None,
    function: ToolFunction,
    timeout_s: float,
    keeps_state: bool | Callable[[Any], bool] | None,
    prepare: Callable[[], None] | None,
    preflight: Callable[[Any], str] | None,
) -> Tool:
    called = _check_name(name if name is not None else getattr(function, "__name__", ""))
    owner, is_class = f"tool {called!r}", inspect.isclass(function)
    if not is_class and not inspect.isroutine(function):
        raise TypeError(f"{owner} needs a function (def or async def) or a class, got {function!r}")
    check_seconds(owner, timeout_s)
    if keeps_state and not is_class:
        raise TypeError(f"{owner}: a function keeps no state; make it a class with __call__, or leave keeps_state out")
    setting, calling = (
        (function.__init__, inspect.getattr_static(function, "__call__", None)) if is_class else (function, function)
    )
    if not inspect.isfunction(calling):
        raise TypeError(f"{owner}: the class must have __call__, which takes the arguments of a call")
    arguments, is_method = _arguments(owner, calling, is_class)
    options = _option_parameters(owner, setting, is_class, is_method)
    whole = whole_model(setting) if options else None
    description = prose_of(calling if is_class and calling.__doc__ else function)
    if not description:
        raise TypeError(f"{owner} needs a docstring: it is what the policy reads about it")
    return Tool(
        called,
        function,
        description,
        model_of(f"{called}_arguments", calling, arguments),
        whole or model_of(f"{called}_options", setting, options),
        timeout_s,
        keeps_state=is_class if keeps_state is None else keeps_state,
        prepare=prepare,
        preflight=preflight,
        takes_model=whole is not None,
        is_method=is_method,
    )


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TypeError(
            f"a tool cannot be called {name!r}: use letters, digits, '_' and '-', a letter or '_' first, 64 at most: "
            "@tool('NAME')"
        )
    return name


def _arguments(owner: str, function: ToolFunction, is_class: bool) -> tuple[list[inspect.Parameter], bool]:
    """What the policy writes, and whether the function is a method of an environment."""
    parameters = list(inspect.signature(function).parameters.values())
    first_is_self = bool(parameters) and parameters[0].name == "self"
    if is_class or first_is_self:
        parameters = parameters[1:]
    hints = get_type_hints(function)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{owner}: declare each argument by its name; got {inspect.signature(function)}")
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.name not in hints:
            raise TypeError(
                f"{owner}: the argument {parameter.name!r} needs an annotation, because the policy is told its type"
            )
        if parameter.kind is parameter.KEYWORD_ONLY and (is_class or first_is_self):
            where = "behind the * of __init__" if is_class else "with the environment"
            raise TypeError(f"{owner}: {parameter.name!r} is keyword-only, as an option; options stand {where}")
    return [
        parameter for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ], first_is_self and not is_class


def _option_parameters(owner: str, function: ToolFunction, is_class: bool, is_method: bool) -> list[inspect.Parameter]:
    """What the task sets."""
    if is_method or function is object.__init__:
        return []
    return option_parameters(owner, function) if is_class else keyword_only(function)


def keyword_only(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters behind the `*`."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def option_parameters(owner: str, constructor: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options that a class takes: every parameter of its `__init__` stands behind a `*`.

    Raises:
        TypeError: one does not.
    """
    if constructor is object.__init__:
        return []
    _, *parameters = inspect.signature(constructor).parameters.values()
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise TypeError(
                f"{owner}: __init__ takes options only, each by its name behind a *; got {parameter} in "
                f"{inspect.signature(constructor)}"
            )
    return parameters


def _without_titles(value: Any) -> Any:
    """A schema without the titles that pydantic makes of names: the policy has the names."""
    if isinstance(value, dict):
        return {
            key: {name: _without_titles(schema) for name, schema in inner.items()}
            if key == "properties"
            else _without_titles(inner)
            for key, inner in value.items()
            if key != "title"
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value

"""What authors of environments use: the `@environment` decorator and the type it makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from reasoner.plugins.options import Configurable, check_seconds, model_of, prose_of, whole_model
from reasoner.plugins.tool_api import Tool, option_parameters


@dataclass(frozen=True, slots=True)
class EnvironmentKind(Configurable):
    """An environment that `[environment]` can name. Calling it makes an instance of the class."""

    kind = "environment"
    name: str
    made_by: type
    """the class; one instance lives in one worker for the length of a response"""
    summary: str
    """first sentence of its docstring"""
    options: type[BaseModel]
    """its options as a pydantic model"""
    tools: Mapping[str, Tool]
    """tools that it brings, by name: its methods marked with `@tool`"""
    timeout_s: float
    """seconds for each call of `start`, `step` and `close`"""
    steps: bool
    """whether it has `step`; without it a turn without a call ends the response"""
    prepare: Callable[[], None] | None = None
    """runs once before workers are forked: slow imports belong here, not into a call's deadline"""
    preflight: Callable[[Any], str] | None = None
    """takes the options (a model) in the main process before anything is loaded"""
    takes_model: bool = False
    """whether the class takes its options as one model, in the parameter `options`"""

    def __call__(self, **options: Any) -> Any:
        """An instance of the class."""
        keywords = {"options": self.options.model_validate(options)} if self.takes_model else options
        return self.made_by(**keywords)


def environment(
    name: str,
    *,
    timeout_s: float = 10.0,
    prepare: Callable[[], None] | None = None,
    preflight: Callable[[Any], str] | None = None,
) -> Callable[[type], EnvironmentKind]:
    """Make an environment of a class. One instance answers the turns of one response.

        start(self, problem) -> str | Message | Sequence[Message] | None    what it adds to the prompt
        step(self, turn) -> str | Observation | None                        what it answers to a turn of the policy
        close(self) -> Mapping[str, Any] | None                             JSON values to be saved with the response

    All may be `async def`; only `start` is needed, and `step` where it brings no tools. Text is a message of the user;
    an `Observation` can also end the response (`done`), give the turn a reward, and save `parts`. After a `step` that
    returns None the response goes on where the turn had calls, and ends where it had none.

    Responses to one problem share their prompt, so `start` adds the same to all of them: derive what is random from the
    problem. Methods marked with `@tool` are tools that the environment brings; they are called before `step`. The
    keyword-only parameters of `__init__` are its options, with their annotations and defaults; or the only one is
    `options`, a pydantic model whose fields they are.

    Each call has `timeout_s` seconds. When they have passed, or the worker dies, or `start` or `step` raises, the
    environment has failed: that is recorded, and the response abstains. A tool of it that raises has only failed as a
    tool: the policy reads why.

        @environment("guess-number")
        class GuessNumber:
            '''The policy guesses a number, and is told whether it is higher or lower.'''

            def __init__(self, *, most: int = 100) -> None: ...
            def start(self, problem): ...
            def step(self, turn): ...

    Raises:
        ValueError: an argument is out of range.
        TypeError: the class cannot be an environment; the message says why.
    """
    if not isinstance(name, str):
        raise TypeError(f"an environment needs a name: @environment('NAME'), got {name!r}")
    owner = f"environment {name!r}"
    check_seconds(owner, timeout_s)

    def decorate(made_by: type) -> EnvironmentKind:
        if not inspect.isclass(made_by):
            raise TypeError(f"{owner} needs a class with start and step, got {made_by!r}")
        tools = {tool.name: tool for tool in _tools_of(made_by)}
        _check_methods(owner, made_by, has_tools=bool(tools))
        options = option_parameters(owner, made_by.__init__)
        whole = whole_model(made_by.__init__) if options else None
        return EnvironmentKind(
            name,
            made_by,
            prose_of(made_by).partition(". ")[0].partition("\n")[0].removesuffix("."),
            whole or model_of(f"{name}_options", made_by.__init__, options),
            tools,
            timeout_s,
            steps=hasattr(made_by, "step"),
            prepare=prepare,
            preflight=preflight,
            takes_model=whole is not None,
        )

    return decorate


def _tools_of(made_by: type) -> list[Tool]:
    members: dict[str, object] = {}
    for base in reversed(made_by.__mro__):
        members |= vars(base)
    return [member for member in members.values() if isinstance(member, Tool) and member.is_method]


def _check_methods(owner: str, made_by: type, *, has_tools: bool) -> None:
    """It has what it needs, and its methods take what they are called with."""
    if not hasattr(made_by, "start"):
        raise TypeError(f"{owner} needs the method start(self, problem)")
    if not hasattr(made_by, "step") and not has_tools:
        raise TypeError(f"{owner} needs the method step(self, turn), or methods marked with @tool")
    for method, called_with in (("start", ("problem",)), ("step", ("turn",)), ("close", ())):
        function = getattr(made_by, method, None)
        if function is None:
            continue
        try:
            inspect.signature(function).bind(None, *called_with)
        except TypeError:
            wanted = ", ".join(("self", *called_with))
            raise TypeError(f"{owner}: {method} must take ({wanted}), got {inspect.signature(function)}") from None

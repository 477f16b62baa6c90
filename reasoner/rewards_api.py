"""What authors of reward sources use: the `@reward` decorator and the type it makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from reasoner.errors import ConfigError, nearest
from reasoner.records import Problem, Response, Score

RewardFunction = Callable[..., "float | Score | None"]


@dataclass(frozen=True, slots=True)
class RewardSource:
    """A named, typed reward function. Calling it calls the function."""

    name: str
    function: RewardFunction
    options: type[BaseModel]
    """the function's keyword-only parameters as a pydantic model"""
    timeout_s: float
    """seconds per call"""
    summary: str
    """first line of the docstring"""
    prepare: Callable[[], None] | None = None
    """runs once in the scoring host before it forks workers: slow imports belong here, not into a call's deadline"""

    def __call__(self, problem: Problem, response: Response, **options: Any) -> float | Score | None:
        return self.function(problem, response, **options)

    def check_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The complete options, defaults filled in.

        Raises:
            ConfigError: an unknown option or a value of the wrong type.
        """
        for key in given:
            if key not in self.options.model_fields:
                allowed = sorted(self.options.model_fields)
                raise ConfigError(
                    f"reward source {self.name!r} has no option {key!r}.{nearest(key, allowed)} "
                    f"It has: {', '.join(allowed) or 'none'}."
                )
        try:
            return self.options.model_validate(dict(given)).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"reward source {self.name!r}, option {key!r}: {first['msg']}, got {first['input']!r}."
            ) from error


def reward(
    name: str, *, timeout_s: float = 5.0, prepare: Callable[[], None] | None = None
) -> Callable[[RewardFunction], RewardSource]:
    """Make a reward source of a function `(problem, response, *, options...) -> float | None | Score`.

    Keyword-only parameters are its options, with their annotations and defaults. The function runs in a worker
    process that is killed with everything it started when `timeout_s` seconds have passed. `prepare` imports what is
    slow to import, once for all workers.

        @reward("contains_unit", timeout_s=1.0)
        def contains_unit(problem, response, *, unit: str = "km") -> float:
            '''1.0 if the answer names the unit.'''
            return float(unit in response.text)
    """

    def decorate(function: RewardFunction) -> RewardSource:
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        return RewardSource(name, function, _options_model(name, function), timeout_s, summary, prepare)

    return decorate


def _options_model(name: str, function: RewardFunction) -> type[BaseModel]:
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise TypeError(
                f"reward source {name!r}: declare each option as a keyword parameter instead of **{parameter.name}"
            )
    config = ConfigDict(extra="forbid", frozen=True)
    return create_model(f"{name}_options", __config__=config, **fields)

"""What authors of reward sources use: the `@reward` decorator and the type it makes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, overload

from pydantic import BaseModel

from reasoner.errors import nearest
from reasoner.plugins.options import Configurable, check_seconds, model_of, whole_model
from reasoner.records import Problem, Response

Granularity = Literal["response", "group", "batch"]
"""what one call sees: a response, all responses to a problem, or responses to any problems"""

Aspect = Literal["answer", "form", "text"]
"""what of a response a source rewards: `answer`, that it is right; `form`, how it is written, whatever the answer;
`text`, a measure of the text such as its length"""

SEES: Mapping[Granularity, str] = MappingProxyType(
    {"response": "problem, response", "group": "problem, responses", "batch": "problems, responses"}
)
"""the positional parameters of a function"""

TEXT_ONLY = "text only"
"""what `RewardSource.reads` says of a reference that is compared as text and not understood"""

RewardFunction = Callable[..., Any]
"""It returns `float | Score | None`, or a sequence of them for a group or batch, with an exception in the place of a
response that it failed on; or it is `async def` and its result does."""


@dataclass(frozen=True, slots=True)
class RewardSource(Configurable):
    """A named, typed reward function. Calling it calls the function, and waits for an async one."""

    kind = "reward source"
    name: str
    function: RewardFunction
    options: type[BaseModel]
    """the function's options as a pydantic model"""
    timeout_s: float
    """seconds per call, retries included"""
    summary: str
    """first line of the docstring"""
    prepare: Callable[[], None] | None = None
    """runs once in the scoring host before it forks workers: slow imports belong here, not into a call's deadline"""
    preflight: Callable[[Any], str] | None = None
    """takes the options (a model) in the main process before anything is loaded; see `RewardSource.ready`"""
    check_problem: Callable[[Problem, Any], str] | None = None
    """takes a problem and the options (a model) and says in a few words what became of trying it; raises ValueError for
    one whose responses it cannot judge as it should. See `reasoner.planning.problem_checks`"""
    reads: Callable[[Problem, Any], tuple[str, str]] | None = None
    """takes a problem and the options (a model) and says in a word or two what it reads the reference as, `TEXT_ONLY`
    where it only compares texts, and the reference as it compares with it; raises ValueError for one that it cannot
    compare with. Looked at before a run starts (`reasoner.planning.references`)"""
    needs_answer: bool | Callable[[Any], bool] = True
    """whether it compares with `Problem.answer`, or a function of the options (a model) that says so: where no source
    of a task does, rows need none"""
    aspect: Aspect | Callable[[Any], Aspect] = "answer"
    """what of a response it rewards, or a function of the options (a model) that says so; `reasoner rewards attack`
    tries whether anything else is paid for"""
    granularity: Granularity = "response"
    """what one call sees"""
    workers: int | None = None
    """worker processes of its own, and so its concurrent calls; None: it shares the common ones"""
    limit_memory: bool = True
    """whether `scoring.memory_mb` holds for it; False: models whose address space is large"""
    retries: int = 0
    """further attempts after one that raised"""
    cache: bool = True
    """whether equal calls have equal outcomes, so that one is made (granularity `response` only)"""
    takes_model: bool = False
    """whether the function takes its options as one model, in the parameter `options`"""

    def __call__(
        self, problem: Problem | Sequence[Problem], response: Response | Sequence[Response], **options: Any
    ) -> Any:
        """What the function returns: one score, or one per response for a group or batch."""
        arguments = {"options": self.options.model_validate(options)} if self.takes_model else options
        returned = self.function(problem, response, **arguments)
        return _wait_for(returned) if inspect.isawaitable(returned) else returned

    def compares(self, options: Mapping[str, Any]) -> bool:
        """Whether it compares with the reference answer, with these options."""
        needs = self.needs_answer
        return needs if isinstance(needs, bool) else needs(self.checked_model(options))

    def rewarded(self, options: Mapping[str, Any]) -> Aspect:
        """What of a response it rewards, with these options."""
        aspect = self.aspect
        return aspect if isinstance(aspect, str) else aspect(self.checked_model(options))


@overload
def reward(name: RewardFunction, /) -> RewardSource: ...


@overload
def reward(
    name: str | None = None,
    *,
    timeout_s: float = 5.0,
    prepare: Callable[[], None] | None = None,
    preflight: Callable[[Any], str] | None = None,
    check_problem: Callable[[Problem, Any], str] | None = None,
    reads: Callable[[Problem, Any], tuple[str, str]] | None = None,
    needs_answer: bool | Callable[[Any], bool] = True,
    aspect: Aspect | Callable[[Any], Aspect] = "answer",
    granularity: Granularity = "response",
    workers: int | None = None,
    limit_memory: bool = True,
    retries: int = 0,
    cache: bool = True,
) -> Callable[[RewardFunction], RewardSource]: ...


def reward(
    name: str | RewardFunction | None = None,
    *,
    timeout_s: float = 5.0,
    prepare: Callable[[], None] | None = None,
    preflight: Callable[[Any], str] | None = None,
    check_problem: Callable[[Problem, Any], str] | None = None,
    reads: Callable[[Problem, Any], tuple[str, str]] | None = None,
    needs_answer: bool | Callable[[Any], bool] = True,
    aspect: Aspect | Callable[[Any], Aspect] = "answer",
    granularity: Granularity = "response",
    workers: int | None = None,
    limit_memory: bool = True,
    retries: int = 0,
    cache: bool = True,
) -> RewardSource | Callable[[RewardFunction], RewardSource]:
    """Make a reward source of a function.

        response   (problem, response, *, options...) -> float | Score | None
        group      (problem, responses, *, options...) -> a sequence of them, one per response
        batch      (problems, responses, *, options...) -> a sequence of them; the two are parallel

    In such a sequence an exception stands for a response that failed, alone: what is raised fails them all.

    Keyword-only parameters are its options, with their annotations and defaults; or the only one is `options`, a
    pydantic model whose fields they are. The function may be `async def`. It runs in a worker process that is killed
    with everything it started when `timeout_s` seconds have passed. `prepare` imports what is slow to import, once for
    all workers. `preflight` runs in the main process when a command starts, before anything is loaded: it takes the
    options, as a model, and returns one line for the run's plan and its environment.json ("sandbox: bubblewrap 0.8.0"),
    or raises `UserError` with what to install or set. `check_problem` runs there too, on a few problems when a run
    starts and on all of them in `reasoner rewards test`: it tries whether the source can judge responses to a problem.
    The other arguments are the fields of `RewardSource`. Without a name, the source has that of the function: `@reward`
    and `@reward(timeout_s=1.0)` do.

        @reward("contains_unit", timeout_s=1.0)
        def contains_unit(problem, response, *, unit: str = "km") -> float:
            '''1.0 if the answer names the unit.'''
            return float(unit in response.text)

    Raises:
        ValueError: an argument is out of range.
        TypeError: the function does not take what it is called with.
    """
    if callable(name):
        return reward()(name)
    _check_declaration(name or "(named by its function)", timeout_s, granularity, workers, limit_memory, retries)
    _check_aspect(name or "(named by its function)", aspect)

    def decorate(function: RewardFunction) -> RewardSource:
        called = name or _name_of(function)
        _check_parameters(called, function, granularity)
        options = whole_model(function)
        return RewardSource(
            called,
            function,
            options or _options_model(called, function),
            timeout_s,
            summary=(inspect.getdoc(function) or "").partition("\n")[0],
            prepare=prepare,
            preflight=preflight,
            check_problem=check_problem,
            reads=reads,
            needs_answer=needs_answer,
            aspect=aspect,
            granularity=granularity,
            workers=workers,
            limit_memory=limit_memory,
            retries=retries,
            cache=cache,
            takes_model=options is not None,
        )

    return decorate


def _name_of(function: RewardFunction) -> str:
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise TypeError(f"{function!r} has no name that a reward source could have: give one, @reward('NAME')")
    return str(name)


def _check_declaration(
    name: str, timeout_s: float, granularity: str, workers: int | None, limit_memory: bool, retries: int
) -> None:
    of = f"reward source {name!r}"
    if granularity not in (allowed := get_args(Granularity)):
        hint = nearest(granularity, allowed)
        raise ValueError(f"{of}: granularity must be one of {', '.join(allowed)}, got {granularity!r}.{hint}")
    check_seconds(of, timeout_s)
    if workers is not None and workers < 1:
        raise ValueError(f"{of}: workers must be at least 1, or None to share the common ones, got {workers}")
    if retries < 0:
        raise ValueError(f"{of}: retries must be at least 0, got {retries}")
    if workers is None and not limit_memory:
        raise ValueError(
            f"{of}: limit_memory=False needs workers of its own, because the shared ones are limited: workers=1"
        )


def _check_aspect(name: str, aspect: object) -> None:
    if not callable(aspect) and aspect not in (allowed := get_args(Aspect)):
        hint = nearest(str(aspect), allowed)
        raise ValueError(f"reward source {name!r}: aspect must be one of {', '.join(allowed)}, got {aspect!r}.{hint}")


def _check_parameters(name: str, function: RewardFunction, granularity: Granularity) -> None:
    """It is called with two positional arguments; whatever else it takes are options, by keyword."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) != 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(
            f"reward source {name!r}: the function must take ({SEES[granularity]}, *, options...), got "
            f"{inspect.signature(function)}: options stand behind a *"
        )


def _options_model(name: str, function: RewardFunction) -> type[BaseModel]:
    if not inspect.isroutine(function):
        raise TypeError(f"reward source {name!r} needs a function (def or async def), got {function!r}")
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise TypeError(
                f"reward source {name!r}: declare each option as a keyword parameter instead of **{parameter.name}; "
                "the row's columns are in problem.fields"
            )
    return model_of(
        f"{name}_options", function, (parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
    )


def _wait_for(awaitable: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run_awaitable(awaitable))
    with ThreadPoolExecutor(1) as thread:  # a loop runs in this one, as in a notebook, and cannot run another
        return thread.submit(asyncio.run, _run_awaitable(awaitable)).result()


async def _run_awaitable(awaitable: Any) -> Any:
    return await awaitable

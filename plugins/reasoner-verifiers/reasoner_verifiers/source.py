"""The reward source `verifiers`: what a task's own rewards give a response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_verifiers.tasksets import SingleTurnTaskset, library, open_taskset


class VerifiersOptions(BaseModel):
    """Options of `verifiers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taskset: str
    """the taskset's id, as the generator has it"""
    config: dict[str, Any] = Field(default_factory=dict)
    """the fields of its configuration, as the generator has them"""


def get_ready() -> None:
    """Import verifiers, also the parts that it imports late: they take longer than a call may."""
    for module in ("verifiers.v1", "verifiers.v1.utils.loaders", "verifiers.v1.graph", "verifiers.v1.mcp"):
        library(module)


def preflight(options: VerifiersOptions) -> str:
    """The taskset is there, and one turn is all that it needs."""
    names = [function.__name__ for function in _functions(open_taskset(options.taskset, options.config))]
    return f"taskset {options.taskset}: {', '.join(names)}"


def check_problem(problem: Problem, options: VerifiersOptions) -> str:
    """Whether the problem is a task of the taskset."""
    _task(problem, options)
    return ""


@reward(
    "verifiers",
    timeout_s=30.0,
    prepare=get_ready,
    preflight=preflight,
    check_problem=check_problem,
    needs_answer=False,
)
async def verifiers(problem: Problem, response: Response, *, options: VerifiersOptions) -> Score:
    """The sum of the rewards of the problem's task, each with its weight, as the taskset has them.

    The problem must come from the generator `verifiers`: the rewards read the data of its task. They get a trace of one
    turn, whose reply is the text of the response after its thinking; it is empty where the thinking is not closed.

    Parts: each reward and each metric by its name.

    Raises:
        ValueError: the problem is not a task of that taskset (the problem is broken, not the response).
    """
    task = _task(problem, options)
    trace = one_turn(task, problem, response.text)
    await task.score(trace, None)
    unscored = [name for name, each in trace.rewards.items() if each is None]
    if unscored:
        raise RuntimeError(f"rewards of the taskset {options.taskset!r} gave nothing: {', '.join(unscored)}")
    parts = {**trace.metrics, **{name: each.score for name, each in trace.rewards.items()}}
    return Score(float(trace.reward), parts)


def one_turn(task: Any, problem: Problem, text: str) -> Any:
    """The trace of a prompt and one answer: what follows the thinking; what is before it is no part of the reply."""
    base, graph = library("verifiers.v1"), library("verifiers.v1.graph")
    kinds = {"system": base.SystemMessage, "user": base.UserMessage, "assistant": base.AssistantMessage}
    messages = [kinds[each.role](content=each.content) for each in problem.messages]
    reply = after_thinking(text) or ""
    # with its marks, whichever the model has
    answer = base.AssistantMessage(content=reply, reasoning_content=text.removesuffix(reply) or None)
    nodes = [
        graph.MessageNode(parent=at - 1 if at else None, message=message, sampled=message is answer)
        for at, message in enumerate([*messages, answer])
    ]
    return base.Trace(
        task=base.TraceTask(type=type(task).__name__, data=task.data),
        agent=base.AgentInfo(config=base.AgentConfig()),
        nodes=nodes,
        is_completed=True,
        ok=True,
    )


def _task(problem: Problem, options: VerifiersOptions) -> Any:
    data = problem.fields.get("task")
    if not isinstance(data, Mapping):
        raise ValueError(
            f"problem {problem.id!r} has no data for the rewards of {options.taskset!r}: take problems of the "
            "generator verifiers"
        )
    try:
        return _taskset(options.taskset, json.dumps(options.config, sort_keys=True)).task(data)
    except ValueError as error:
        raise ValueError(f"problem {problem.id!r} is no task of {options.taskset!r}: {error}") from error


def _functions(opened: SingleTurnTaskset) -> list[Any]:
    """The rewards of its tasks, also those that its configuration adds."""
    task = next(opened.tasks(), None)
    return [] if task is None else task.hooks("reward")


@lru_cache(maxsize=16)
def _taskset(name: str, config: str) -> SingleTurnTaskset:
    return open_taskset(name, json.loads(config))

"""The generator `verifiers`: the tasks of a taskset as problems."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from reasoner import DataError
from reasoner_verifiers.tasksets import SingleTurnTaskset, open_taskset

ROLES = ("system", "user", "assistant")


def verifiers(
    count: int,
    seed: int,
    *,
    taskset: str,
    config: dict[str, Any] = {},  # noqa: B006  (an option's default; it is only read)
) -> Iterator[Mapping[str, Any]]:
    """Problems of a taskset: `question` (its prompt: a text, or messages), `answer` (that of the task's data, if it has
    one), and `task`, the data that its rewards read.

    A finite taskset is shuffled with the seed and gives its first `count` tasks; one without end gives them in its own
    order, whatever the seed. To train and evaluate on different tasks of one taskset, give them different fields of
    `config` (most have a split), or leave it to `data.overlap`, which leaves the common ones out.

    Raises:
        MissingDependencyError: verifiers is not installed.
        ConfigError: there is no such taskset, it refuses the `config`, or it needs more than one turn.
        DataError: it has fewer tasks, or a prompt that is not text.
    """
    opened = open_taskset(taskset, config)
    given = 0
    for task in islice(_shuffled(opened, seed), count):
        given += 1
        yield problem_row(taskset, task.data)
    if given < count:
        raise DataError(f"the taskset {taskset!r} has {given} tasks, and {count} are asked for: lower the limit.")


def problem_row(taskset: str, data: Any) -> dict[str, Any]:
    """A task's data as a row.

    Raises:
        DataError: its prompt is none, or not text.
    """
    place = f"taskset {taskset!r}, task {data.idx}"
    messages = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    if isinstance(data.prompt, str):
        messages.append({"role": "user", "content": data.prompt})
    elif data.prompt:
        messages += [_message(each, place) for each in data.prompt]
    else:
        raise DataError(f"{place} has no prompt: somebody else opens its conversation, which a single turn cannot do.")
    task = data.model_dump(mode="json", exclude_defaults=True)
    question = messages[0]["content"] if len(messages) == 1 else messages
    return {"question": question, "answer": _answer(task.get("answer")), "task": task}


def _shuffled(opened: SingleTurnTaskset, seed: int) -> Iterator[Any]:
    if not opened.made.bounded:
        return opened.tasks()
    tasks = list(opened.tasks())
    random.Random(f"verifiers:{seed}").shuffle(tasks)
    return iter(tasks)


def _message(message: Any, place: str) -> dict[str, str]:
    if message.role not in ROLES or not isinstance(message.content, str):
        raise DataError(f"{place}: a message of its prompt is not text of system, user or assistant: {message!r:.200}")
    return {"role": message.role, "content": message.content}


def _answer(value: Any) -> str:
    """The task's reference as text; empty where it has none that is a text or a number."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""

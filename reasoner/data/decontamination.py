"""Keeps training and evaluation data apart: an evaluation on problems that were trained on measures memory.

Two problems are the same when their conversations are, without the system message and the task's worked examples,
whatever white space, case and punctuation they have. What changes a problem stays: digits with their decimal point,
operators, brackets.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from reasoner.errors import DataError
from reasoner.records import Message, Problem

T = TypeVar("T")
OverlapPolicy = Literal["refuse", "drop", "allow"]

EXAMPLES = 3
"""shared problems that a message names"""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]|_")
_PUNCTUATION = frozenset(".,;:!?…'\"`´‘’“”„«»¿¡$")
"""`$` delimits mathematics; typographic dashes are written as a minus instead"""
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))


def normal_text(text: str) -> str:
    """The text as problems are compared by: `What  is 3+4?` and `what is 3 + 4` are the same, `3-4` and `1.5` differ
    from `3+4` and `15`."""
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).casefold()
    return " ".join(token for token in _TOKEN.findall(plain) if token not in _PUNCTUATION)


def question_key(problem: Problem, examples: Sequence[Message] = ()) -> str:
    """What a problem asks, as a text that is the same for problems that are the same.

    Args:
        examples: the task's worked examples (`prompt.examples`), which say nothing about a problem.
    """
    turns = [message for message in problem.messages if message.role != "system"]
    if examples and turns[: len(examples)] == list(examples):
        turns = turns[len(examples) :]
    return "\n".join(normal_text(message.content) for message in turns)


def hold_out(
    items: Sequence[T],
    problem_of: Callable[[T], Problem],
    share: float,
    *,
    most: int | None = None,
    examples: Sequence[Message] = (),
) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """The items to train on and those that are held out for evaluation (`data.holdout`), each in the given order.

    The split is by problem: all items that ask the same are on the same side. Which problems are held out depends on
    their texts alone (those with the smallest SHA-256), so that it is the same for every `run.seed`, order of the rows,
    rank and start, and changes little when rows are added.

    Args:
        share: of the problems, between 0 and 1; at least one problem is held out.
        most: items that the caller uses at most; the share is of so many. None: all.
        examples: as in `question_key`.
    """
    keys = [question_key(problem_of(item), examples) for item in items]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"held out: {key}".encode()).digest())
    wanted = round(share * min(len(ranked), len(ranked) if most is None else most))
    chosen = set(ranked[: max(1, wanted)])
    kept = tuple(item for item, key in zip(items, keys, strict=True) if key not in chosen)
    return kept, tuple(item for item, key in zip(items, keys, strict=True) if key in chosen)


def once(items: Sequence[T], problem_of: Callable[[T], Problem], examples: Sequence[Message] = ()) -> tuple[T, ...]:
    """The first item of those that ask the same."""
    first: dict[str, T] = {}
    for item in items:
        first.setdefault(question_key(problem_of(item), examples), item)
    return tuple(first.values())


def keep_apart(
    items: Sequence[T],
    problem_of: Callable[[T], Problem],
    held_out: Sequence[Problem],
    section: str,
    policy: OverlapPolicy,
    examples: Sequence[Message] = (),
) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """The items to train on, and what is worth knowing about those that are evaluation problems, in sentences.

    Args:
        section: the configuration section that the items are of (`data.train`), for messages.
        examples: as in `question_key`.

    Raises:
        DataError: there are shared problems and the policy refuses them, or drops them and nothing is left.
    """
    evaluated = {question_key(problem, examples): problem for problem in held_out}
    matches = [evaluated.get(question_key(problem_of(item), examples)) if evaluated else None for item in items]
    fresh = tuple(item for item, match in zip(items, matches, strict=True) if match is None)
    count = len(items) - len(fresh)
    if not count:
        return fresh, ()
    what = f"{section}: {count} of {len(items)} problems are also evaluation problems"
    if policy == "allow":
        return tuple(items), (f"{what}: the evaluation measures memory, too.",)
    if policy == "drop" and fresh:
        return fresh, (f"{what} and were left out.",)
    if policy == "drop":
        raise DataError(f"{what}; without them nothing is left to train on. Use other data.")
    pairs = [(problem_of(item), match) for item, match in zip(items, matches, strict=True) if match is not None]
    shared = "\n".join(
        f"  {training.id} is {evaluation.id}: {_question(training)}" for training, evaluation in pairs[:EXAMPLES]
    )
    raise DataError(
        f"{what}, apart from white space, case and punctuation; the evaluation would measure memorisation.\n{shared}\n"
        "Leave them out of the training with --set data.overlap=drop, or keep them with data.overlap=allow."
    )


def _question(problem: Problem) -> str:
    text = " ".join(problem.messages[-1].content.split())
    return text if len(text) <= 60 else f"{text[:60]}..."

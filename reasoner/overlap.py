"""Problems that are in the training and in the evaluation data: an evaluation on them measures memory.

Two problems are the same when the user's messages that end their conversations are, whatever white space, case and
punctuation they have. What changes a problem stays: digits with their decimal point, operators, brackets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from reasoner.errors import DataError
from reasoner.records import Problem

T = TypeVar("T")
Policy = Literal["refuse", "drop", "allow"]

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


def keep_apart(
    items: Sequence[T], problem_of: Callable[[T], Problem], held_out: Sequence[Problem], section: str, policy: Policy
) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """The items to train on, and what is worth knowing about those that are evaluation problems, in sentences.

    Args:
        section: the configuration section that the items are of (`data.train`), for messages.

    Raises:
        DataError: there are shared problems and the policy refuses them, or drops them and nothing is left.
    """
    evaluated = {_key(problem): problem for problem in held_out}
    matches = [evaluated.get(_key(problem_of(item))) for item in items]
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
        raise DataError(f"{what}: left out, nothing is left to train on. Give other data.")
    pairs = [(problem_of(item), match) for item, match in zip(items, matches, strict=True) if match is not None]
    examples = "\n".join(f"  {ours.id} is {theirs.id}: {_question(ours)}" for ours, theirs in pairs[:EXAMPLES])
    raise DataError(
        f"{what}, but for white space, case and punctuation: the evaluation would measure memory.\n{examples}\n"
        "Leave them out of the training with --set data.overlap=drop, or keep them with data.overlap=allow."
    )


def _key(problem: Problem) -> str:
    return normal_text(problem.messages[-1].content)


def _question(problem: Problem) -> str:
    text = " ".join(problem.messages[-1].content.split())
    return text if len(text) <= 60 else f"{text[:60]}..."

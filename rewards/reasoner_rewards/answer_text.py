"""What several sources ask of a text: the reference answer of a problem, and whether a text says anything."""

from __future__ import annotations

import unicodedata

from reasoner import Problem
from reasoner_rewards.extraction import reference_answer


def reference_text(problem: Problem) -> str:
    r"""What follows `####` in the reference, what its `\boxed{}` holds, or the whole of it.

    Raises:
        ValueError: it is empty (the problem is broken, not the response).
    """
    reference = reference_answer(problem.answer)
    text = problem.answer if reference.method == "text" else reference.answer or ""
    if not text.strip():
        raise ValueError(
            f"problem {problem.id!r} has no reference answer: {reference.problem}; got {problem.answer[:80]!r}. "
            "Give the answer as it is, after '####', or in \\boxed{}."
        )
    return text.strip()


SAYING = frozenset({"Sm", "So", "Sc", "Ps", "Pe"})
"""Unicode categories, beside those of letters and numbers: an answer may be `<`, `€` or `[]`"""


def says_something(text: str) -> bool:
    """Whether there is a letter, a number, a symbol or a bracket in it: `...`, `?` and invisible characters say
    nothing."""
    return any((kind := unicodedata.category(char))[0] in "LN" or kind in SAYING for char in text)

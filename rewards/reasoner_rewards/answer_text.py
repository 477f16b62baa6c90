"""What several sources compare with: the reference answer of a problem."""

from __future__ import annotations

from reasoner import Problem
from reasoner_rewards.extraction import reference_answer


def reference_text(problem: Problem) -> str:
    r"""What follows `####` in the reference, what its `\boxed{}` holds, or the whole of it.

    Raises:
        ValueError: it is empty (the problem is broken, not the response).
    """
    found = reference_answer(problem.answer)
    text = problem.answer if found.method == "text" else found.answer or ""
    if not text.strip():
        raise ValueError(
            f"problem {problem.id!r} has no reference answer: {found.problem}; got {problem.answer[:80]!r}. "
            "Give the answer as it is, after '####', or in \\boxed{}."
        )
    return text.strip()

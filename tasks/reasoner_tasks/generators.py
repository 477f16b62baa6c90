"""Generators of problems: endless data without a download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reasoner import DataError, MissingDependencyError

_INSTRUCTION = " Give the result as your final answer. Do not include units."
"""reasoning-gym ends every question with it; how to answer is the task's business (its system prompt)"""


def gsm_symbolic(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
    """Grade-school word problems in the manner of GSM8K, all different: question, and the answer as a number.

    Made by reasoning-gym from the templates of GSM-Symbolic (arXiv 2410.05229). It draws problem i from `seed + i`; the
    seed is spread here, so that neighbouring seeds do not share their problems.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        DataError: there are not that many different problems.
    """
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise MissingDependencyError(
            "the generator gsm_symbolic needs reasoning-gym; install it with `pip install 'reasoner[data]'`"
        ) from error
    seen: set[str] = set()
    drawn = create_dataset("gsm_symbolic", seed=seed << 32, size=2 * count + 100)
    for index in range(len(drawn)):
        item = drawn[index]
        question = item["question"].removesuffix(_INSTRUCTION).strip()
        if question not in seen:
            seen.add(question)
            yield {"question": question, "answer": item["answer"]}
        if len(seen) == count:
            return
    raise DataError(f"generator gsm_symbolic: only {len(seen)} different problems with seed {seed}, asked for {count}.")

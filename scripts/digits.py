"""The validation's task as a plugin: three digits to write backwards, an exact verifier, and demonstrations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reasoner import Problem, Response, RewardSource, hookimpl, reward
from reasoner.plugins.hookspecs import Generator

DIGITS = 3


def digits(count: int, seed: int, *, part: str = "train", wrong: float = 0.0) -> Iterator[Mapping[str, Any]]:
    """Digits and the same backwards; a fifth of the problems, always the same, is `eval`, the rest `train`.

    `wrong`: share of answers that are in another order.
    """
    everything = list(range(10**DIGITS))
    random.Random("split").shuffle(everything)
    border = len(everything) // 5
    numbers = everything[:border] if part == "eval" else everything[border:]
    rng = random.Random(seed)
    for _ in range(count):
        question = f"{rng.choice(numbers):0{DIGITS}}"
        answer = question[::-1]
        if rng.random() < wrong:
            answer = "".join(rng.sample(question, DIGITS))
        yield {"question": question, "answer": answer}


@reward("backwards", timeout_s=5.0)
def backwards(problem: Problem, response: Response) -> float:
    """1 if the response is the digits backwards and nothing else."""
    return float(response.text == problem.answer and response.finish_reason == "stop")


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`digits`."""
    return {"digits": digits}


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`backwards`."""
    return (backwards,)

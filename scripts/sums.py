"""The validation's task as a plugin: sums of two numbers, their exact verifier, and demonstrations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reasoner import Problem, Response, RewardSource, hookimpl, reward
from reasoner.hookspecs import Generator

LARGEST = 49


def sums(count: int, seed: int, *, part: str = "train") -> Iterator[Mapping[str, Any]]:
    """`a+b` with a, b of 0 to 49; a fifth of the problems, always the same, is `eval`, the rest `train`."""
    everything = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    random.Random("split").shuffle(everything)
    border = len(everything) // 5
    mine = everything[:border] if part == "eval" else everything[border:]
    rng = random.Random(seed)
    for _ in range(count):
        a, b = rng.choice(mine)
        yield {"question": f"{a}+{b}", "answer": str(a + b)}


@reward("sum", timeout_s=5.0)
def correct_sum(problem: Problem, response: Response) -> float:
    """1 if the response is the sum and nothing else."""
    return float(response.text == problem.answer and response.finish_reason == "stop")


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`sums`."""
    return {"sums": sums}


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`sum`."""
    return (correct_sum,)

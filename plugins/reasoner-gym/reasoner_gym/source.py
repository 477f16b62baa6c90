"""The reward source `reasoning_gym`: what a dataset's own scorer says of the final answer."""

from __future__ import annotations

import json
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from reasoner import Problem, Response, Score, reward
from reasoner_gym.answers import Extract, final_answer
from reasoner_gym.datasets import Dataset, make, names
from reasoner_gym.generator import MANY
from reasoner_gym.plain import from_plain

MOST = 200
"""characters of an answer that are stored"""


class GymOptions(BaseModel):
    """Options of `reasoning_gym`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """the dataset whose scorer is called"""
    extract: Extract = "auto"
    """the final answer: the last `\\boxed{}` (`boxed`), the last `<answer>` (`answer`), the last line (`last_line`),
    everything (`all`); `auto`: the last box or tag, and without one the last line"""


def get_ready() -> None:
    """Import reasoning-gym."""
    names()


@reward("reasoning_gym", timeout_s=20.0, prepare=get_ready)
def reasoning_gym(problem: Problem, response: Response, *, options: GymOptions) -> Score:
    r"""What the dataset's own scorer gives the final answer: 1.0 if it is right, part of it if it is nearly so.

    The problem must come from the generator `reasoning_gym`: the scorer reads the metadata of its row. Only what
    follows `</think>` counts; a response without a final answer scores 0.

    Parts: `extracted` and `reference`, cut at 200 characters, and `method`, how the answer was found.

    Raises:
        ValueError: the problem is not one of that dataset (the problem is broken, not the response).
    """
    fields = problem.fields
    if not {"question", "metadata", "config"} <= fields.keys():
        raise ValueError(
            f"problem {problem.id!r} has no metadata for the scorer of {options.name!r}: take problems of the "
            "generator reasoning_gym"
        )
    if not problem.answer:
        raise ValueError(f"problem {problem.id!r} has no reference answer")
    metadata = from_plain(fields["metadata"])
    if (drawn := metadata.get("source_dataset", options.name)) != options.name:
        raise ValueError(
            f"problem {problem.id!r} is of the dataset {drawn!r}: the scorer of {options.name!r} does not fit"
        )
    answer = final_answer(response.text, options.extract)
    reference = None if problem.answer == MANY else problem.answer
    parts = {
        "extracted": answer.text and answer.text[:MOST],
        "method": answer.method,
        "reference": reference and reference[:MOST],
    }
    if answer.text is None:
        return Score(0.0, parts, answer.problem)
    scorer = _scorer(options.name, json.dumps(fields["config"], sort_keys=True))
    entry = {"question": fields["question"], "answer": reference, "metadata": metadata}
    value = float(scorer.score_answer(answer.text, entry))
    return Score(value, parts, "" if value >= 1 else "not what the dataset's scorer accepts")


@lru_cache(maxsize=16)
def _scorer(name: str, config: str) -> Dataset:
    return make(name, json.loads(config))

"""The examples of `reasoner.evaluation.examples`, read from a run's evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reasoner.evaluation.examples import TURN_MARK, Example, choose_examples
from reasoner.evaluation.metrics import Criterion
from reasoner.io.bounded_files import is_there
from reasoner.io.parquet import read_columns, read_parquet
from reasoner.records import Component, Failure, Response, Rollout, Turn

_LOOKED_AT = ["problem.id", "problem.part", "sample", "components"]


def read_examples(folder: Path, first: int, last: int, criteria: Mapping[str, Criterion]) -> tuple[Example, ...]:
    """A few responses of two evaluations; none where one of them sampled nothing.

    Args:
        folder: the run folder.
        first: steps before the one evaluation.
        last: steps before the other.
        criteria: what makes a response correct, by task.

    Raises:
        DataError: a file cannot be read, or is none of rollouts.
    """
    files = [folder / "rollouts" / f"eval-{step:06}.parquet" for step in (first, last)]
    if first == last or not all(map(is_there, files)):
        return ()
    before, after = (_verdicts(file, criteria) for file in files)
    chosen = choose_examples(
        {name: right for name, (_, right) in before.items()}, {name: right for name, (_, right) in after.items()}
    )
    shared = sum(name in after for name in before)
    examples = []
    for pair in chosen:
        (old_row, right_before), (new_row, right_after) = before[pair.id], after[pair.id]
        (old,), (new,) = (
            read_parquet(file, Rollout, [row]) for file, row in zip(files, (old_row, new_row), strict=True)
        )
        question = old.problem.messages[-1].content if old.problem.messages else ""
        texts = (as_line(old.response), as_line(new.response))
        examples.append(Example(question, old.problem.answer, *texts, right_before, right_after, pair.alike, shared))
    return tuple(examples)


def as_line(response: Response) -> str:
    """What the policy wrote; of a response with turns, what came back stands in it in brackets (`TURN_MARK`)."""
    if len(response.turns) < 2:
        return response.text
    return " ".join(turn.text if turn.role == "assistant" else _reply_line(turn) for turn in response.turns)


def _reply_line(turn: Turn) -> str:
    who = turn.tool or ("tool" if turn.role == "tool" else "environment")
    line = f"{who} failed: {turn.error}" if turn.error else f"{who}: {turn.text.strip()}"
    return f"{TURN_MARK[0]}{line}{TURN_MARK[1]}"


def _verdicts(file: Path, criteria: Mapping[str, Criterion]) -> dict[str, tuple[int, bool]]:
    """Task and problem id -> row of its first response and whether that is right; those without a verdict are left
    out."""
    chosen = {}
    only = next(iter(criteria.values())) if len(criteria) == 1 else None
    rows = read_columns(file, Rollout, _LOOKED_AT).to_pylist()
    for number, row in enumerate(rows):
        problem = row["problem"]
        criterion = only or criteria.get(problem["part"])
        if row["sample"] == 0 and criterion is not None:
            verdict = criterion.verdict({part["source"]: _component(part) for part in row["components"]})
            if verdict in ("correct", "wrong"):
                chosen["/".join((problem["part"], problem["id"]))] = (number, verdict == "correct")
    return chosen


def _component(row: dict[str, object]) -> Component:
    failure = row["failure"]
    known = {name: row[name] for name in ("source", "weight", "value")}
    return Component(**known, failure=Failure(**failure) if isinstance(failure, dict) else None)  # type: ignore[arg-type]

"""Task files of tests: online training of a tiny model in the same folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_task(folder: Path, source: str, settings: Mapping[str, Any]) -> Path:
    """`trial.toml` in a folder with `tiny/` and `problems.jsonl`, which is trained and evaluated on.

    Args:
        source: the reward source, and what is correct.
        settings: dotted keys and their values, in the place of those here or beside them.
    """
    problems = str(folder / "problems.jsonl")
    values = {
        "model.path": str(folder / "tiny"),
        "model.device": "cpu",
        "data.overlap": "allow",
        "data.train.path": problems,
        "data.eval.path": problems,
        "sampling.engine": "hf",
        "sampling.group_size": 4,
        "rewards": [{"source": source}],
        "gro.preset": "grpo",
        "learning.problems_per_step": 4,
        "evaluation.correct": source,
        "run.output": str(folder / "runs"),
    }
    task = folder / "trial.toml"
    task.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in (values | dict(settings)).items()))
    return task


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)

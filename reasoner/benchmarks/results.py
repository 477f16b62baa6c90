"""The results of an evaluation: figures of every model on every task, and every model compared with the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.config import Config
from reasoner.evaluation.metrics import Difference, Evaluation, compare
from reasoner.training.evaluator import evaluation_params


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One task with one model, done."""

    letter: str
    """of the model"""
    config: Config
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model compared with the first one, paired by problem."""

    baseline: str
    model: str
    """letters"""
    differences: tuple[Difference, ...]
    """model minus baseline"""


def by_task(results: Sequence[BenchmarkResult]) -> dict[str, list[BenchmarkResult]]:
    """The results of each task, in order."""
    tasks: dict[str, list[BenchmarkResult]] = {}
    for result in results:
        tasks.setdefault(result.config.task, []).append(result)
    return tasks


def comparisons(results: Sequence[BenchmarkResult]) -> list[ModelComparison]:
    """Of the results of one task: each of them with the first."""
    first = results[0]
    return [
        ModelComparison(first.letter, other.letter, compare(first.evaluation, other.evaluation))
        for other in results[1:]
    ]


def as_json(folder: Path, results: Sequence[BenchmarkResult]) -> dict[str, Any]:
    """Everything as JSON values; docs/evaluation.md describes them."""
    return {
        "folder": str(folder),
        "models": {result.letter: result.config.model.path for result in results},
        "tasks": [_task(task, of_task) for task, of_task in by_task(results).items()],
    }


def _task(task: str, results: Sequence[BenchmarkResult]) -> dict[str, Any]:
    config, evaluation = results[0].config, results[0].evaluation
    params = evaluation_params(config)
    return {
        "task": task,
        "problems": evaluation.problems,
        "samples": evaluation.samples,
        "temperature": params.temperature,
        "max_tokens": params.max_tokens,
        "seed": config.run.seed,
        "correct": config.required_evaluation.correct,
        "threshold": config.required_evaluation.threshold,
        "results": {result.letter: _figures(result.evaluation) for result in results},
        "comparisons": [_comparison_json(comparison) for comparison in comparisons(results)],
    }


def _figures(evaluation: Evaluation) -> Mapping[str, Any]:
    return {
        "abstained": evaluation.abstained,
        "judged": evaluation.judged,
        "figures": {
            estimate.name: {
                "unit": estimate.unit,
                "problems": len(estimate.by_problem),
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
            for estimate in evaluation.estimates
        },
    }


def _comparison_json(comparison: ModelComparison) -> Mapping[str, Any]:
    return {
        "baseline": comparison.baseline,
        "model": comparison.model,
        "figures": {
            difference.name: {
                "unit": difference.unit,
                "problems": difference.problems,
                "baseline": difference.before,
                "model": difference.after,
                "change": difference.change,
                "low": difference.low,
                "high": difference.high,
                "rose": difference.rose,
                "fell": difference.fell,
                "p": difference.p,
            }
            for difference in comparison.differences
        },
    }

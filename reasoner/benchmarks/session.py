"""An evaluation from its start, or from where it was interrupted, to its results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from reasoner.benchmarks.folder import EvaluationFolder, create, reopen
from reasoner.benchmarks.loop import evaluate
from reasoner.benchmarks.parts import BenchmarkPart, describe, letters_of, memory_warnings, prepare
from reasoner.benchmarks.results import BenchmarkResult, as_json
from reasoner.loading import Resolved
from reasoner.monitoring.choose import open_view
from reasoner.planning.preflight import ready
from reasoner.plugins.manager import build_manager
from reasoner.processes.caller import tell_folder


def start(resolved: Sequence[Resolved]) -> tuple[Path, list[BenchmarkResult]]:
    """Evaluate in a new folder; returns it with the results.

    Args:
        resolved: one configuration per task and model.

    Raises:
        UserError: something is not as it must be; nothing was loaded yet.
        RunError: an engine, the scoring or the disk failed; what was done is in the folder.
    """
    tasks = [task for config in resolved for task in _split_tasks(config)]
    parts = prepare([ready(task, training=False) for task in tasks], letters_of(tasks))
    tight = memory_warnings(parts)
    with create(Path(resolved[0].config.run.output), parts) as folder:
        tell_folder(folder.folder)
        return folder.folder, _carry_on(folder, parts, tight)


def resume(name: str) -> tuple[Path, list[BenchmarkResult]]:
    """Go on with what is left of an evaluation, if anything is; returns all its results. As `start` otherwise."""
    with reopen(name) as folder:
        tell_folder(folder.folder)
        todo = [ready(task, training=False) for name, task in folder.configs.items() if not folder.evaluation(name)]
        if not todo:
            return folder.folder, _results(folder)
        parts = prepare(todo, letters_of(list(folder.configs.values())))
        folder.check(parts)
        return folder.folder, _carry_on(folder, parts, memory_warnings(parts))


def _carry_on(
    folder: EvaluationFolder, parts: Sequence[BenchmarkPart], warnings: Sequence[str]
) -> list[BenchmarkResult]:
    with open_view(sys.stdout, folder.log) as view:
        view.started(describe(parts) | {"output": str(folder.folder)}, 0)
        for warning in warnings:
            view.message(f"WARNING: {warning}")
        try:
            evaluate(parts, folder, view)
        except BaseException:
            view.message(f"to resume from here: reasoner eval --resume {quote(str(folder.folder))}")
            raise
    results = _results(folder)
    folder.keep_results(as_json(folder.folder, results))
    return results


def _split_tasks(resolved: Resolved) -> list[Resolved]:
    """The tasks that a run evaluates on, each as a configuration of its own."""
    config = resolved.config
    if not config.mixture and not config.also:
        return [resolved]
    tasks = (config.without_other_tasks if task is config else task for task in config.evaluated.values())
    # Plugins of its own for each: those that watch are told of one task.
    return [replace(resolved, config=task, manager=build_manager(config.plugins)) for task in tasks]


def _results(folder: EvaluationFolder) -> list[BenchmarkResult]:
    done = ((planned, folder.evaluation(planned.name)) for planned in folder.plan)
    return [
        BenchmarkResult(planned.letter, folder.configs[planned.name].config, evaluation)
        for planned, evaluation in done
        if evaluation is not None
    ]

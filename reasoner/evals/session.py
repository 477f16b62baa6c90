"""An evaluation from its start, or from where it was interrupted, to its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from reasoner.evals.folder import EvaluationFolder, check_identity, create, reopen
from reasoner.evals.loop import evaluate
from reasoner.evals.parts import Part, describe, letters_of, prepare
from reasoner.evals.results import Result, as_json
from reasoner.reporting.choose import open_view
from reasoner.settings import Resolved


def start(resolved: Sequence[Resolved], stream: TextIO) -> tuple[Path, list[Result]]:
    """Evaluate in a new folder; returns it with the results.

    Args:
        resolved: one configuration per task and model.
        stream: where progress is shown.

    Raises:
        UserError: something is not as it must be; nothing was loaded yet.
        RunError: an engine, the scoring or the disk failed; what was done is in the folder.
    """
    parts = prepare(resolved, letters_of(resolved), stream)
    facts = describe(parts)
    with create(Path(resolved[0].config.run.output), parts, facts) as folder:
        return folder.folder, _carry_on(folder, parts, facts, stream)


def resume(path: Path, stream: TextIO) -> tuple[Path, list[Result]]:
    """Go on with what is left of an evaluation, if anything is; returns all its results. As `start` otherwise."""
    with reopen(path) as folder:
        left = [resolved for name, resolved in folder.configs.items() if folder.evaluation(name) is None]
        if not left:
            return path, _results(folder)
        parts = prepare(left, letters_of(list(folder.configs.values())), stream)
        check_identity(path, parts)
        return path, _carry_on(folder, parts, describe(parts), stream)


def _carry_on(folder: EvaluationFolder, parts: Sequence[Part], facts: dict[str, str], stream: TextIO) -> list[Result]:
    with open_view(stream, folder.log) as view:
        view.started(facts | {"output": str(folder.folder)}, 0)
        try:
            evaluate(parts, folder, view)
        except BaseException:
            view.message(f"to go on from here: reasoner eval --resume {folder.folder}")
            raise
    results = _results(folder)
    folder.keep_results(as_json(folder.folder, results))
    return results


def _results(folder: EvaluationFolder) -> list[Result]:
    done = ((name, resolved, folder.evaluation(name)) for name, resolved in folder.configs.items())
    return [
        Result(name.rpartition("/")[2], resolved.config, evaluation)
        for name, resolved, evaluation in done
        if evaluation is not None
    ]

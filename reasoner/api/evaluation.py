"""`reasoner.evaluate`, and its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.api.arguments import Plugin, check_plugins, settings
from reasoner.api.command import call
from reasoner.api.frames import columns_of, to_frame
from reasoner.api.plugins import place
from reasoner.api.run import Run
from reasoner.errors import UserError
from reasoner.io.bounded_files import LARGE_BYTES, read_object
from reasoner.loading import load_config

RESULTS = "results.json"

ModelArgument = str | Path | Run
"""a folder, a hub id, an embedded model, or the run whose newest weights are meant"""
TaskArgument = str | Path
"""its name, or a TOML file"""


@dataclass(frozen=True)
class EvaluationResults:
    """The results of an evaluation."""

    folder: Path
    results: Mapping[str, Any]
    """everything, as `reasoner eval --json` prints it (docs/evaluation.md)"""

    @property
    def figures(self) -> Any:
        """A row per task, model and figure: `task`, `model`, `figure`, `unit`, `value`, and its 95% interval `low` to
        `high`. A frame of pandas, or of polars.

        Raises:
            MissingDependencyError: neither is installed.
        """
        return to_frame(
            columns_of(
                {"task": of["task"], "model": self.results["models"][letter], "figure": name, **figure}
                for of in self.results["tasks"]
                for letter, result in of["results"].items()
                for name, figure in result["figures"].items()
            )
        )

    @property
    def comparisons(self) -> Any:
        """A row per task, model but the first, and figure: how it differs from the first model, paired by problem, with
        the 95% interval of the change. A frame as `figures`."""
        models = self.results["models"]
        return to_frame(
            columns_of(
                {
                    "task": of["task"],
                    "figure": name,
                    "unit": figure["unit"],
                    "baseline": models[compared["baseline"]],
                    "model": models[compared["model"]],
                    "baseline_value": figure["baseline"],
                    "model_value": figure["model"],
                    **{key: value for key, value in figure.items() if key not in ("unit", "baseline", "model")},
                }
                for of in self.results["tasks"]
                for compared in of["comparisons"]
                for name, figure in compared["figures"].items()
            )
        )

    def __repr__(self) -> str:
        tasks = ", ".join(of["task"] for of in self.results["tasks"])
        return f"<EvaluationResults {self.folder}: {tasks}; models {', '.join(self.results['models'].values())}>"


def evaluate(
    tasks: TaskArgument | Sequence[TaskArgument] = (),
    *,
    models: ModelArgument | Sequence[ModelArgument] = (),
    profile: str | None = None,
    config: Mapping[str, Any] | None = None,
    plugins: Iterable[Plugin] = (),
    resume: str | Path | None = None,
) -> EvaluationResults:
    """Evaluate models on tasks, as `reasoner eval` does, and return the results.

        reasoner.evaluate("math-gsm8k", models=["BASE", run], config={"evaluation.samples": 4})

    It starts that command as a child process, for the reasons of `reasoner.run`.

    Args:
        tasks: one, or several.
        models: one, or several, which are compared with the first; none: the task's own.
        profile: as for `reasoner.run`; so are `config` and `plugins`.
        resume: folder of an evaluation to resume, in the place of everything else.

    Raises:
        UserError: something is not as it must be; nothing was loaded yet.
        RunError: an engine, the scoring or the disk failed; what was done is in the folder.
        KeyboardInterrupt: it was interrupted, and can be resumed.
    """
    named = [tasks] if isinstance(tasks, TaskArgument) else list(tasks)
    chosen = [models] if isinstance(models, ModelArgument) else list(models)
    own_plugins, sets = check_plugins(plugins), settings(config)
    if resume is not None:
        if named or chosen or profile is not None or sets or own_plugins:
            raise UserError("a resumed evaluation keeps its own configuration: give nothing but resume=FOLDER.")
        arguments = ["--resume", str(resume)]
    else:
        if not named:
            raise UserError("name a task to evaluate on (`reasoner tasks list`), or an evaluation with resume=FOLDER.")
        paths = [str(model.model_path if isinstance(model, Run) else model) for model in chosen]
        files = place(own_plugins, lambda files: load_config(str(named[0]), profile, (), sets, files))
        arguments = [word for path in paths for word in ("--model", path)]
        arguments += ["--profile", profile] if profile is not None else []
        arguments += [word for file in files for word in ("--plugin", file)]
        arguments += [word for setting in sets for word in ("--set", setting)]
        arguments += ["--", *map(str, named)]
    folder = call("eval", *arguments, resume="reasoner.evaluate(resume={folder!r})")
    return EvaluationResults(folder, read_object(folder / RESULTS, LARGE_BYTES))
